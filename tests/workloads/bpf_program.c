// bpf_program [SECONDS]: spends most of its CPU time in a BPF program of its own, named `obs_test_bpf`: a socket filter that
// every message passes. Prints `tag TAG`, by which the kernel names the program's code. Exits with 1 if it may not load it.
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "burn.h"

// Multiplications that depend on each other: some microseconds a run.
#define STEPS 3900

static struct bpf_insn program[STEPS + 3];

static long bpf(int command, union bpf_attr *attr) {
    return syscall(SYS_bpf, command, attr, sizeof *attr);
}

static int load(void) {
    int n = 0;
    program[n++] = (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 3};
    for (int i = 0; i < STEPS; i++) {
        program[n++] = (struct bpf_insn){.code = BPF_ALU64 | BPF_MUL | BPF_K, .dst_reg = 0, .imm = 5};
    }
    // So many bytes of the message are kept: all.
    program[n++] = (struct bpf_insn){.code = BPF_ALU64 | BPF_OR | BPF_K, .dst_reg = 0, .imm = 1};
    program[n++] = (struct bpf_insn){.code = BPF_JMP | BPF_EXIT};
    union bpf_attr attr = {
        .prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
        .insns = (uintptr_t)program,
        .insn_cnt = n,
        .license = (uintptr_t) "GPL",
    };
    strcpy(attr.prog_name, "obs_test_bpf");
    return (int)bpf(BPF_PROG_LOAD, &attr);
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1.5;
    int pair[2];
    int loaded = load();
    if (loaded < 0 || socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) != 0 ||
        setsockopt(pair[1], SOL_SOCKET, SO_ATTACH_BPF, &loaded, sizeof loaded) != 0) {
        fprintf(stderr, "bpf_program: cannot attach a filter: %s\n", strerror(errno));
        return 1;
    }
    struct bpf_prog_info info = {0};
    union bpf_attr attr = {.info = {.bpf_fd = loaded, .info_len = sizeof info, .info = (uintptr_t)&info}};
    if (bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) != 0) {
        perror("bpf_program: cannot read the program's tag");
        return 1;
    }
    printf("tag ");
    for (unsigned i = 0; i < sizeof info.tag; i++) {
        printf("%02x", info.tag[i]);
    }
    printf("\n");
    fflush(stdout);
    double end = thread_cpu_seconds() + seconds;
    char message = 0;
    while (thread_cpu_seconds() < end) {
        if (write(pair[0], &message, 1) != 1 || read(pair[1], &message, 1) != 1) {
            perror("bpf_program: cannot send a message");
            return 1;
        }
    }
    return 0;
}
