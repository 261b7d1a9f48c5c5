// idle SECONDS: sleeps.
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 2;
    usleep((useconds_t)(seconds * 1e6));
    return 0;
}
