// Compiled twice, with two names for its function: burns as many seconds of CPU as its argument says.
#include <stdlib.h>

#include "burn.h"

FRAME void WORK(double seconds) {
    burn_until(seconds);
    after_call++;
}

int main(int argc, char **argv) {
    WORK(argc > 1 ? atof(argv[1]) : 0.020);
    return 0;
}
