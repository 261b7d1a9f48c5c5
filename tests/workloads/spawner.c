// spawner COUNT CMD [ARG…]: runs CMD COUNT times, one after another, and prints the CPU seconds that they used together,
// as the kernel accounts them.
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: spawner COUNT CMD [ARG...]\n");
        return 2;
    }
    int count = atoi(argv[1]);
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0) {
            perror("spawner: fork");
            return 1;
        }
        if (child == 0) {
            execv(argv[2], argv + 2);
            perror("spawner: execv");
            _exit(127);
        }
        int status;
        if (waitpid(child, &status, 0) != child || status != 0) {
            fprintf(stderr, "spawner: a child ended with wait status %d\n", status);
            return 1;
        }
    }
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    printf("cpu_seconds %.6f\n", (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                                     (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    return 0;
}
