// realign [SECONDS]: frames whose size only the program knows (alloca), that realign the stack (-mstackrealign, and
// locals aligned to 64 bytes, which with stack arguments need a register of their own: DRAP), and that are big (64 KiB).
// True chain: _start, libc, main, grows, realigns, drap, big_frame, realign_hot.
#include <alloca.h>
#include <stdlib.h>
#include <string.h>

#include "burn.h"

FRAME void keep(void *memory) {
    __asm__ volatile("" : : "r"(memory) : "memory");
}

FRAME void realign_hot(double seconds) {
    burn(seconds);
    after_call++;
}

FRAME void big_frame(double seconds) {
    char bytes[64 * 1024];
    keep(bytes);
    realign_hot(seconds);
    keep(bytes);
}

// Eight integer arguments: two are on the stack, above a frame that has moved away from them.
FRAME void drap(double seconds, long a, long b, long c, long d, long e, long f, long g, long h) {
    __attribute__((aligned(64))) char line[64];
    char *more = alloca((size_t)(a + h));
    keep(line);
    keep(more);
    big_frame(seconds);
    after_call += (unsigned long)(a + b + c + d + e + f + g + h);
    keep(line);
}

FRAME void realigns(double seconds) {
    __attribute__((aligned(32))) char line[32];
    keep(line);
    drap(seconds, 1, 2, 3, 4, 5, 6, 7, 8);
    keep(line);
}

FRAME void grows(double seconds, size_t bytes) {
    char *memory = alloca(bytes);
    memset(memory, 1, bytes);
    keep(memory);
    realigns(seconds);
    keep(memory);
}

int main(int argc, char **argv) {
    double end_seconds = argc > 1 ? atof(argv[1]) : 1.5;
    for (size_t bytes = 16; thread_cpu_seconds() < end_seconds; bytes = bytes * 3 % 50000 + 16) {
        grows(0.005, bytes);
    }
    return 0;
}
