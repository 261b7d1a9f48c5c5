// sleepers PROCESSES THREADS: starts PROCESSES children, each with THREADS further threads, all asleep. Prints
// `processes P threads T` (children and further threads that there are: a limit of the machine may allow fewer), and sleeps
// until it is killed. Its children end with it.
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define STACK_BYTES (PTHREAD_STACK_MIN + 4096)

static void *sleeper(void *nothing) {
    (void)nothing;
    for (;;) {
        pause();
    }
    return NULL;
}

// Makes the threads and says how many it made.
static void be_a_child(int threads, int tell) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int made = 0;
    pthread_t handle;
    while (made < threads && pthread_create(&handle, &attributes, sleeper, NULL) == 0) {
        made++;
    }
    if (write(tell, &made, sizeof made) != sizeof made) {
        _exit(1);
    }
    close(tell);
    sleeper(NULL);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: sleepers PROCESSES THREADS\n");
        return 2;
    }
    int wanted = atoi(argv[1]), threads = atoi(argv[2]);
    long total = 0;
    int children = 0;
    for (; children < wanted; children++) {
        int ends[2];
        if (pipe(ends) != 0) {
            perror("sleepers: pipe");
            return 1;
        }
        pid_t parent = getpid();
        pid_t child = fork();
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent) {
                _exit(0);
            }
            close(ends[0]);
            // Else whoever reads what the parent prints would wait for the children too.
            close(STDOUT_FILENO);
            close(STDERR_FILENO);
            be_a_child(threads, ends[1]);
        }
        close(ends[1]);
        if (child < 0) {
            fprintf(stderr, "sleepers: after %d processes: %s\n", children, strerror(errno));
            close(ends[0]);
            break;
        }
        int made = 0;
        if (read(ends[0], &made, sizeof made) != sizeof made) {
            fprintf(stderr, "sleepers: a child ended\n");
            close(ends[0]);
            break;
        }
        close(ends[0]);
        total += made;
        if (made < threads) {
            fprintf(stderr, "sleepers: a process could have only %d more threads\n", made);
            children++;
            break;
        }
    }
    printf("processes %d threads %ld\n", children, total);
    fflush(stdout);
    sleeper(NULL);
    return 0;
}
