// crowd COUNT WAKE_MS: as many processes, each of which sleeps; with WAKE_MS above 0 each wakes so often and works for WORK_US.
// Started by its full path. Prints "ready" when all of them are there, and ends with them when its standard input ends, or when it is killed.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORK_US = 50, NS_A_SECOND = 1000000000 };

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (long long)NS_A_SECOND + now.tv_nsec;
}

__attribute__((noinline)) void work(void) {
    long long until = now_ns() + WORK_US * 1000LL;
    while (now_ns() < until) {
    }
}

// One of the crowd.
static _Noreturn void member(long long wake_ms) {
    if (wake_ms <= 0) {
        for (;;) pause();
    }
    // Not all at once.
    srand((unsigned)getpid());
    long long pause_ns = rand() % (wake_ms * 1000) * 1000LL;
    for (;;) {
        struct timespec pause_for = {pause_ns / NS_A_SECOND, pause_ns % NS_A_SECOND};
        nanosleep(&pause_for, NULL);
        work();
        pause_ns = wake_ms * 1000000LL;
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "member") == 0) member(atoll(argv[2]));
    if (argc != 3) return 2;
    int count = atoi(argv[1]);
    pid_t parent = getpid();
    for (int started = 0; started < count; started++) {
        pid_t pid = fork();
        if (pid < 0) {
            fprintf(stderr, "cannot start process %d of %d: %s\n", started + 1, count, strerror(errno));
            return 1;
        }
        if (pid == 0) {
            // Survives exec, so that nobody is left however the crowd ends.
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent) _exit(1);
            // An image of its own, as other programs have: other addresses, other mappings.
            execl(argv[0], "crowd", "member", argv[2], (char *)NULL);
            _exit(1);
        }
    }
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0) {
    }
    return 0;
}
