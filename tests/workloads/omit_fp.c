// omit_fp [SECONDS]: twelve calls deep without frame pointers, then libc's qsort, which calls back.
// True chain: _start, libc, main, chain_01 … chain_12, libc's sort, compare.
#include <stdlib.h>

#include "burn.h"

#define ELEMENTS 64

FRAME int compare(const void *left, const void *right) {
    burn_piece();
    return *(const int *)left - *(const int *)right;
}

FRAME void chain_12(double end_seconds) {
    int elements[ELEMENTS];
    while (thread_cpu_seconds() < end_seconds) {
        for (int i = 0; i < ELEMENTS; i++) {
            elements[i] = (i * 37) % ELEMENTS;
        }
        qsort(elements, ELEMENTS, sizeof elements[0], compare);
        after_call += (unsigned long)elements[1];
    }
}

#define CHAIN(name, next)                 \
    FRAME void name(double end_seconds) { \
        next(end_seconds);                \
        after_call++;                     \
    }

CHAIN(chain_11, chain_12)
CHAIN(chain_10, chain_11)
CHAIN(chain_09, chain_10)
CHAIN(chain_08, chain_09)
CHAIN(chain_07, chain_08)
CHAIN(chain_06, chain_07)
CHAIN(chain_05, chain_06)
CHAIN(chain_04, chain_05)
CHAIN(chain_03, chain_04)
CHAIN(chain_02, chain_03)
CHAIN(chain_01, chain_02)

int main(int argc, char **argv) {
    chain_01(argc > 1 ? atof(argv[1]) : 1.5);
    return 0;
}
