// short [SECONDS]: a process that lives for 20 ms of CPU, then exits with the status 0.
#include <stdlib.h>

#include "burn.h"

FRAME void short_life(double seconds) {
    burn_until(seconds);
    after_call++;
}

int main(int argc, char **argv) {
    short_life(argc > 1 ? atof(argv[1]) : 0.020);
    return 0;
}
