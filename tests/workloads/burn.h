// What every workload burns CPU with: whole slices of the thread's own CPU clock, so that a share of the work is a share
// of the CPU time whatever the machine's speed and load.
#ifndef OBS_BURN_H
#define OBS_BURN_H

#include <time.h>

// Keeps the optimiser from merging, inlining, cloning or tail-calling a function: each is a frame of its own.
#ifdef __cplusplus
#define FRAME extern "C" __attribute__((noipa, used))
#else
#define FRAME __attribute__((noipa, used))
#endif

// Written after each call, so that no call is a tail call.
static volatile unsigned long after_call;

static inline double thread_cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

// A fixed piece of arithmetic, tens to hundreds of microseconds: on a fast machine too, reading the clock is little beside it.
static inline __attribute__((always_inline)) void burn_piece(void) {
    for (volatile unsigned long i = 0; i < 100000; i++) {
    }
}

// Burns until the thread's CPU clock shows `end_seconds`.
FRAME void burn_until(double end_seconds) {
    while (thread_cpu_seconds() < end_seconds) {
        burn_piece();
    }
}

// Burns `seconds` of the thread's CPU time.
FRAME void burn(double seconds) {
    burn_until(thread_cpu_seconds() + seconds);
    after_call++;
}

#endif
