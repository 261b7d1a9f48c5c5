// long_names [SECONDS]: burns in the innermost of 480 functions, then of 480 others, and so on: 5,760 functions in all, whose names
// have 1,000 characters each. That is more text than a block of the history holds.
#include <stdlib.h>

#include "burn.h"

#define CHAIN 480
#define CHAINS 12

#define X10 "xxxxxxxxxx"
#define X100 X10 X10 X10 X10 X10 X10 X10 X10 X10 X10
#define LONG X100 X100 X100 X100 X100 X100 X100 X100 X100 X10 X10 X10 X10 X10 X10 X10 X10 X10 "xxxxxx"

// A macro for each of 6 * 10 * 10 * 10 numbers.
#define TEN(M, n) M(n##0) M(n##1) M(n##2) M(n##3) M(n##4) M(n##5) M(n##6) M(n##7) M(n##8) M(n##9)
#define HUNDRED(M, n) \
    TEN(M, n##0) TEN(M, n##1) TEN(M, n##2) TEN(M, n##3) TEN(M, n##4) \
    TEN(M, n##5) TEN(M, n##6) TEN(M, n##7) TEN(M, n##8) TEN(M, n##9)
#define THOUSAND(M, n) \
    HUNDRED(M, n##0) HUNDRED(M, n##1) HUNDRED(M, n##2) HUNDRED(M, n##3) HUNDRED(M, n##4) \
    HUNDRED(M, n##5) HUNDRED(M, n##6) HUNDRED(M, n##7) HUNDRED(M, n##8) HUNDRED(M, n##9)
#define ALL(M) THOUSAND(M, 1) THOUSAND(M, 2) THOUSAND(M, 3) THOUSAND(M, 4) THOUSAND(M, 5) THOUSAND(M, 6)

typedef void link(int index, int end);

#define DECLARE(n) FRAME void link_##n(int index, int end) __asm__(LONG #n);
ALL(DECLARE)

#define ENTRY(n) link_##n,
static link *const links[] = {ALL(ENTRY)};

#define DEFINE(n) \
    FRAME void link_##n(int index, int end) { \
        if (index + 1 < end) { \
            links[index + 1](index + 1, end); \
        } else { \
            burn(0.05); \
        } \
        after_call++; \
    }
ALL(DEFINE)

int main(int argc, char **argv) {
    double end_seconds = argc > 1 ? atof(argv[1]) : 1.5;
    for (int chain = 0; thread_cpu_seconds() < end_seconds; chain = (chain + 1) % CHAINS) {
        links[chain * CHAIN](chain * CHAIN, (chain + 1) * CHAIN);
    }
    return 0;
}
