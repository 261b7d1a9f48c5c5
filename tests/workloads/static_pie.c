// static_pie [SECONDS]: six calls deep without frame pointers; linked as a stripped static-pie, and statically against
// musl. True chain: _start, libc, main, pie_1 … pie_6, pie_hot.
#include <stdlib.h>

#include "burn.h"

FRAME void pie_hot(double end_seconds) {
    burn_until(end_seconds);
    after_call++;
}

#define CHAIN(name, next)                 \
    FRAME void name(double end_seconds) { \
        next(end_seconds);                \
        after_call++;                     \
    }

CHAIN(pie_6, pie_hot)
CHAIN(pie_5, pie_6)
CHAIN(pie_4, pie_5)
CHAIN(pie_3, pie_4)
CHAIN(pie_2, pie_3)
CHAIN(pie_1, pie_2)

int main(int argc, char **argv) {
    pie_1(argc > 1 ? atof(argv[1]) : 1.5);
    return 0;
}
