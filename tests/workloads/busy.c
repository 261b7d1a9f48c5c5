// busy N SECONDS: N threads named busy-0, busy-1, … each burn until their own CPU clock shows SECONDS; then the program
// prints the CPU seconds that the whole process used, as the kernel counts them.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "burn.h"

#define THREADS_MAX 64

static double seconds;

FRAME void *busy_thread(void *index) {
    char name[16];
    snprintf(name, sizeof name, "busy-%d", (int)(long)index);
    prctl(PR_SET_NAME, name);
    burn_until(seconds);
    after_call++;
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: busy THREADS SECONDS\n");
        return 2;
    }
    int threads = atoi(argv[1]);
    seconds = atof(argv[2]);
    if (threads < 1 || threads > THREADS_MAX) {
        fprintf(stderr, "busy: 1 to %d threads\n", THREADS_MAX);
        return 2;
    }
    pthread_t handles[THREADS_MAX];
    for (long i = 0; i < threads; i++) {
        if (pthread_create(&handles[i], NULL, busy_thread, (void *)i) != 0) {
            perror("busy: pthread_create");
            return 1;
        }
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(handles[i], NULL);
    }
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    printf("cpu_seconds %.6f\n", (double)used.tv_sec + (double)used.tv_nsec / 1e9);
    return 0;
}
