// pid_reuse ROUNDS SECONDS PROGRAM_A PROGRAM_B: runs the two programs in turn, ROUNDS times each, under one process id, each
// with the argument SECONDS. With ROUNDS 0 it lets the machine's process ids go round once instead, and prints `forks N`.
// Prints for each process id `pid P lives N`, and the CPU seconds of each program as the kernel accounts them: `first X` and
// `second Y`.
//
// The next process id is chosen by writing the one before it to /proc/sys/kernel/ns_last_pid. Another process that is born in
// between takes it, and may keep it: then it goes on under another one.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRIES_MAX 20
#define PIDS_MAX 50
#define BATCH 64

// Chooses the next process id; returns whether that could be asked for.
static int ask_for(pid_t pid) {
    char text[16];
    int length = snprintf(text, sizeof text, "%d", pid - 1);
    int file = open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
    if (file < 0) {
        return 0;
    }
    int is_asked = write(file, text, (size_t)length) == length;
    close(file);
    return is_asked;
}

// Runs a program under this process id; returns the CPU seconds that it used, TAKEN, or FAILED.
#define FAILED (-1.0)
#define TAKEN (-2.0)
static double run_as(pid_t pid, const char *program, const char *seconds) {
    for (int try = 0; try < TRIES_MAX; try++) {
        if (!ask_for(pid)) {
            perror("pid_reuse: /proc/sys/kernel/ns_last_pid");
            return FAILED;
        }
        // The child waits for the word: it must not run the program under another id.
        int word[2];
        if (pipe(word) != 0) {
            return FAILED;
        }
        pid_t child = fork();
        if (child < 0) {
            perror("pid_reuse: fork");
            return FAILED;
        }
        if (child == 0) {
            char go = 0;
            close(word[1]);
            if (read(word[0], &go, 1) != 1) {
                _exit(0);
            }
            close(word[0]);
            execl(program, program, seconds, (char *)NULL);
            _exit(127);
        }
        close(word[0]);
        if (child == pid && write(word[1], "g", 1) != 1) {
            perror("pid_reuse: write");
            return FAILED;
        }
        close(word[1]);
        int status;
        struct rusage used;
        if (wait4(child, &status, 0, &used) != child || status != 0) {
            fprintf(stderr, "pid_reuse: %s ended with wait status %d\n", program, status);
            return FAILED;
        }
        if (child == pid) {
            return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                   (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
        }
    }
    return TAKEN;
}

// Forks until a process id comes that is smaller than the one before, and on to the first again. A few at a time: waiting
// for each would be waiting for the scheduler.
static long go_round(void) {
    pid_t first = 0, last = 0;
    int is_round = 0;
    for (long forks = 1;; forks++) {
        pid_t child = fork();
        if (child == 0) {
            _exit(0);
        }
        if (child < 0) {
            perror("pid_reuse: fork");
            return -1;
        }
        first = first ? first : child;
        is_round |= child < last;
        last = child;
        int is_done = is_round && child >= first;
        if (is_done || forks % BATCH == 0) {
            while (wait(NULL) > 0) {
            }
        }
        if (is_done) {
            return forks;
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: pid_reuse ROUNDS SECONDS PROGRAM PROGRAM\n");
        return 2;
    }
    int rounds = atoi(argv[1]);
    if (rounds == 0) {
        long forks = go_round();
        printf("forks %ld\n", forks);
        return forks < 0;
    }
    double first = 0, second = 0;
    int done = 0;
    for (int pids = 0; pids < PIDS_MAX && done < 2 * rounds; pids++) {
        // One that is free now.
        pid_t pid = fork();
        if (pid == 0) {
            _exit(0);
        }
        waitpid(pid, NULL, 0);
        int lives = 0;
        while (done < 2 * rounds) {
            double used = run_as(pid, argv[3 + done % 2], argv[2]);
            if (used == FAILED) {
                return 1;
            }
            if (used == TAKEN) {
                break;
            }
            *(done % 2 ? &second : &first) += used;
            done++;
            lives++;
        }
        printf("pid %d lives %d\n", pid, lives);
    }
    if (done < 2 * rounds) {
        fprintf(stderr, "pid_reuse: others took every process id\n");
        return 1;
    }
    printf("first %.6f\nsecond %.6f\n", first, second);
    return 0;
}
