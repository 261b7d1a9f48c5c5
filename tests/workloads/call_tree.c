// call_tree [SECONDS]: a known call tree with known shares of the CPU time, frame pointers kept.
//
//   main 100 % -> phase_a 30 % -> share_10 10 %, share_20 20 %
//              -> phase_b 70 % -> share_30 30 %, share_40 40 %
//
// Each function burns its part of the thread's own CPU clock, so the shares hold at any speed and load.
#include <stdio.h>
#include <stdlib.h>

#include "burn.h"

#define ROUNDS 10

// Where the thread's CPU clock shall stand when the part ends. Running sums, so that what one part overshoots by is not
// added to the next.
static double part_end;

#define SHARE(name, tenths)                  \
    FRAME void name(double round_seconds) {  \
        part_end += round_seconds * tenths / 10; \
        burn_until(part_end);                \
        after_call++;                        \
    }

SHARE(share_10, 1)
SHARE(share_20, 2)
SHARE(share_30, 3)
SHARE(share_40, 4)

FRAME void phase_a(double round_seconds) {
    share_10(round_seconds);
    share_20(round_seconds);
    after_call++;
}

FRAME void phase_b(double round_seconds) {
    share_30(round_seconds);
    share_40(round_seconds);
    after_call++;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 5;
    part_end = thread_cpu_seconds();
    for (int round = 0; round < ROUNDS; round++) {
        phase_a(seconds / ROUNDS);
        phase_b(seconds / ROUNDS);
    }
    printf("cpu_seconds %.6f\n", thread_cpu_seconds());
    return 0;
}
