// Waits of known length and kind, each in a function of its own, one after the other on one thread. Prints how long the main
// thread was in the function of each kind: `waited_seconds KIND 1.234`.
//
//   waits KIND...    sleep  100 times 10 ms in nanosleep
//                    long   one sleep of 2 s among 100,000 of at most some microseconds
//                    lock   50 times 20 ms for a mutex that another thread holds while it sleeps
//                    pipe   20 times 25 ms for a byte out of a pipe, which another thread writes
//                    socket 20 times 25 ms for a byte out of a socket pair
//                    poll   20 times 25 ms in poll
//                    hour   one sleep of an hour
//                    disk   300 writes of 1 MiB past the page cache into a file of the current folder, and more until a second has
//                           passed: beside it, what the program needs to start is little; the time on CPU is taken off
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double waited_seconds;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void nap(long ns) {
    struct timespec time = {ns / 1000000000, ns % 1000000000};
    while (nanosleep(&time, &time) != 0) {
    }
}

__attribute__((noinline)) void sleeps_in_a_named_function(void) {
    double begin = now();
    for (int i = 0; i < 100; i++) nap(10 * 1000 * 1000);
    waited_seconds += now() - begin;
}

__attribute__((noinline)) void sleeps_long_once(void) {
    double begin = now();
    nap(2000L * 1000 * 1000);
    waited_seconds += now() - begin;
}

__attribute__((noinline)) void sleeps_for_an_hour(void) {
    nap(3600L * 1000 * 1000 * 1000);
}

__attribute__((noinline)) void sleeps_short_often(int times) {
    for (int i = 0; i < times; i++) nap(1);
}

static void long_among_short(void) {
    sleeps_short_often(5000);
    sleeps_long_once();
    sleeps_short_often(5000);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;

static void *holds_the_lock(void *unused) {
    (void)unused;
    for (int i = 0; i < 50; i++) {
        pthread_mutex_lock(&mutex);
        pthread_barrier_wait(&barrier);
        nap(20 * 1000 * 1000);
        pthread_mutex_unlock(&mutex);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

__attribute__((noinline)) void waits_for_the_lock(void) {
    double begin = now();
    pthread_mutex_lock(&mutex);
    waited_seconds += now() - begin;
    pthread_mutex_unlock(&mutex);
}

static void lock(void) {
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, holds_the_lock, NULL);
    for (int i = 0; i < 50; i++) {
        pthread_barrier_wait(&barrier);
        waits_for_the_lock();
        pthread_barrier_wait(&barrier);
    }
    pthread_join(thread, NULL);
}

static void *writes_bytes(void *end) {
    for (int i = 0; i < 20; i++) {
        nap(25 * 1000 * 1000);
        if (write(*(int *)end, "x", 1) != 1) abort();
    }
    return NULL;
}

__attribute__((noinline)) void reads_a_byte(int end) {
    char byte;
    double begin = now();
    if (read(end, &byte, 1) != 1) abort();
    waited_seconds += now() - begin;
}

__attribute__((noinline)) void polls_for_a_byte(int end) {
    struct pollfd polled = {end, POLLIN, 0};
    double begin = now();
    if (poll(&polled, 1, -1) != 1) abort();
    waited_seconds += now() - begin;
}

static void bytes(int ends[2], int polls) {
    pthread_t thread;
    pthread_create(&thread, NULL, writes_bytes, &ends[1]);
    for (int i = 0; i < 20; i++) {
        if (polls) polls_for_a_byte(ends[0]);
        reads_a_byte(ends[0]);
    }
    pthread_join(thread, NULL);
}

static double cpu_time(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

__attribute__((noinline)) void writes_to_the_disk(int file, void *block) {
    double begin = now() - cpu_time(), end = now() + 1;
    for (int i = 0; i < 300 || now() < end; i++) {
        if (pwrite(file, block, 1 << 20, (long)(i % 64) << 20) != 1 << 20) abort();
    }
    // Its blocks are freed now, which takes the disk too.
    if (close(file) != 0) abort();
    waited_seconds += now() - cpu_time() - begin;
}

static void disk(void) {
    char path[] = "waits-XXXXXX";
    void *block;
    int file = mkostemp(path, O_DIRECT | O_DSYNC);
    if (file < 0 || unlink(path) != 0 || posix_memalign(&block, 4096, 1 << 20) != 0) abort();
    memset(block, 'x', 1 << 20);
    writes_to_the_disk(file, block);
}

int main(int count, char **words) {
    for (int i = 1; i < count; i++) {
        int ends[2];
        waited_seconds = 0;
        if (strcmp(words[i], "sleep") == 0) {
            sleeps_in_a_named_function();
        } else if (strcmp(words[i], "long") == 0) {
            long_among_short();
        } else if (strcmp(words[i], "lock") == 0) {
            lock();
        } else if (strcmp(words[i], "pipe") == 0 || strcmp(words[i], "poll") == 0) {
            if (pipe(ends) != 0) return 1;
            bytes(ends, words[i][1] == 'o');
        } else if (strcmp(words[i], "socket") == 0) {
            if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return 1;
            bytes(ends, 0);
        } else if (strcmp(words[i], "hour") == 0) {
            sleeps_for_an_hour();
        } else if (strcmp(words[i], "disk") == 0) {
            disk();
        } else {
            fprintf(stderr, "waits: unknown kind %s\n", words[i]);
            return 2;
        }
        printf("waited_seconds %s %.6f\n", words[i], waited_seconds);
    }
    return 0;
}
