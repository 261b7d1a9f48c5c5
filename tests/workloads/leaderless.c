// leaderless [SECONDS]: the first thread ends at once; another one burns. True chain: clone3, start_thread, left_behind.
#include <pthread.h>
#include <stdlib.h>

#include "burn.h"

static double seconds = 1.5;

FRAME void *left_behind(void *nothing) {
    burn(seconds);
    return nothing;
}

int main(int argc, char **argv) {
    pthread_t thread;
    if (argc > 1) {
        seconds = atof(argv[1]);
    }
    if (pthread_create(&thread, NULL, left_behind, NULL) != 0) {
        return 1;
    }
    pthread_exit(NULL);
}
