// recursion [SECONDS [DEPTH]]: DEPTH frames of `recurse` (600), the innermost of which burns. 600 are more than obs keeps
// (512).
#include <stdlib.h>

#include "burn.h"

#define DEPTH 600

FRAME void recurse(int depth, double seconds) {
    if (depth > 1) {
        recurse(depth - 1, seconds);
    } else {
        burn(seconds);
    }
    after_call++;
}

int main(int argc, char **argv) {
    recurse(argc > 2 ? atoi(argv[2]) : DEPTH, argc > 1 ? atof(argv[1]) : 1.5);
    return 0;
}
