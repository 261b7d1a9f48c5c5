// jit [SECONDS]: writes machine code that keeps frame pointers, names it in /tmp/perf-PID.map, and runs it. Prints the
// map's path; whoever runs it removes the map.
// True chain: _start, libc, main, run_jit, jit_outer, jit_middle, jit_hot (the last three are written at run time).
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "burn.h"

#define CODE_BYTES 4096
#define FUNCTION_BYTES 64

// push %rbp; mov %rsp,%rbp; movabs $target,%rax; call *%rax; pop %rbp; ret
static void write_caller(uint8_t *at, const void *target) {
    uint8_t code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xd0, 0x5d, 0xc3};
    memcpy(code + 6, &target, sizeof target);
    memcpy(at, code, sizeof code);
}

// push %rbp; mov %rsp,%rbp; mov $1000000,%ecx; 1: dec %ecx; jnz 1b; pop %rbp; ret
static void write_loop(uint8_t *at) {
    static const uint8_t code[] = {0x55, 0x48, 0x89, 0xe5, 0xb9, 0x40, 0x42, 0x0f, 0x00,
                                   0xff, 0xc9, 0x75, 0xfc, 0x5d, 0xc3};
    memcpy(at, code, sizeof code);
}

FRAME void run_jit(void (*outer)(void), double end_seconds) {
    while (thread_cpu_seconds() < end_seconds) {
        outer();
        after_call++;
    }
}

int main(int argc, char **argv) {
    uint8_t *code = mmap(NULL, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) {
        perror("jit: mmap");
        return 1;
    }
    uint8_t *hot = code, *middle = code + FUNCTION_BYTES, *outer = code + 2 * FUNCTION_BYTES;
    write_loop(hot);
    write_caller(middle, hot);
    write_caller(outer, middle);
    if (mprotect(code, CODE_BYTES, PROT_READ | PROT_EXEC) != 0) {
        perror("jit: mprotect");
        return 1;
    }

    char path[64];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
    FILE *map = fopen(path, "w");
    if (map == NULL) {
        perror("jit: fopen");
        return 1;
    }
    fprintf(map, "%lx %x jit_hot\n", (unsigned long)hot, FUNCTION_BYTES);
    fprintf(map, "%lx %x jit_middle\n", (unsigned long)middle, FUNCTION_BYTES);
    fprintf(map, "%lx %x jit_outer\n", (unsigned long)outer, FUNCTION_BYTES);
    fclose(map);
    printf("map %s\n", path);
    fflush(stdout);

    run_jit((void (*)(void))outer, argc > 1 ? atof(argv[1]) : 1.5);
    return 0;
}
