// Things of known number and length, one kind after the other. Prints what it did and how long that took by its own clock.
//
//   latencies bimodal            900 sleeps of 2 ms and 100 of 20 ms: `bimodal_seconds P50 P99 SUM ABOVE_10_MS`
//   latencies reads FILE COUNT BYTES
//                                COUNT reads of so many bytes past the page cache, one after the other: `reads COUNT SECONDS`
//   latencies faults COUNT       touches COUNT pages for the first time: `faults MINOR MAJOR` as the kernel counted for it
//   latencies tunnel DELAY_MS CONNECTS SEGMENTS LOST BYTES
//                                in a network of its own behind a tunnel whose far end, a thread, sends each packet back as its own
//                                answer after DELAY_MS: connects so often, then sends segments one by one, then so many bytes at once;
//                                of the segments of both, LOST are dropped once:
//                                `connect_seconds MEDIAN MEAN`, `rtt_seconds LARGEST`, `retransmits SEGMENTS` (the kernel's count)
//   latencies processes COUNT    makes so many processes one after the other, each of which asks once for its parent: `processes COUNT`
//   latencies refused COUNT      connects to a port of 127.0.0.1 where nobody listens: `refused COUNT`
//
// Given `wait` as the first word, it first prints `ready` and waits for SIGUSR1.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char *what) {
    fprintf(stderr, "latencies: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int by_size(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static double median(double *values, int count) {
    qsort(values, count, sizeof *values, by_size);
    return values[(count - 1) / 2];
}

static void bimodal(void) {
    static double seconds[1000];
    double sum = 0;
    int above = 0;
    for (int i = 0; i < 1000; i++) {
        struct timespec time = {0, i % 10 == 9 ? 20000000 : 2000000};
        double begin = now();
        if (nanosleep(&time, NULL) != 0) fail("nanosleep");
        seconds[i] = now() - begin;
        sum += seconds[i];
        above += seconds[i] > 0.01;
    }
    qsort(seconds, 1000, sizeof *seconds, by_size);
    printf("bimodal_seconds %.9f %.9f %.9f %d\n", seconds[499], seconds[989], sum, above);
}

static void reads(const char *path, int count, long size) {
    int file = open(path, O_RDONLY | O_DIRECT);
    if (file < 0) fail(path);
    off_t bytes = lseek(file, 0, SEEK_END);
    void *buffer;
    if (bytes < size || posix_memalign(&buffer, 2 << 20, 2 << 20) != 0) fail("a file of a read or more");
    // One large page, if there are such: the kernel then has less to do besides waiting for the disk.
    madvise(buffer, 2 << 20, MADV_HUGEPAGE);
    memset(buffer, 0, 2 << 20);
    double begin = now();
    for (int i = 0; i < count; i++) {
        // Neighbours are not read one after the other.
        off_t place = ((off_t)i * 7919) % (bytes / size);
        if (pread(file, buffer, size, place * size) != size) fail("pread");
    }
    printf("reads %d %.9f\n", count, now() - begin);
}

static void faults(long count) {
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    char *memory = mmap(NULL, count * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    madvise(memory, count * 4096, MADV_NOHUGEPAGE);
    for (long i = 0; i < count; i++) ((volatile char *)memory)[i * 4096] = 1;
    getrusage(RUSAGE_SELF, &after);
    printf("faults %ld %ld\n", after.ru_minflt - before.ru_minflt, after.ru_majflt - before.ru_majflt);
}

// The far end of the tunnel.
struct far_end {
    int tunnel;
    double delay;
    int to_lose;
};

// Packets that wait for their time, in order.
#define WAITING_MAX 4096
struct packet {
    double due;
    int bytes;
    unsigned char data[1600];
};

static struct packet waiting[WAITING_MAX];

// Segments with data carry a byte that says whether this one is to be lost; each is lost once.
static int is_lost(struct far_end *end, const unsigned char *data, int bytes) {
    int header = (data[0] & 15) * 4;
    int payload = header + (data[header + 12] >> 4) * 4;
    if (payload >= bytes || data[payload] != 'L') return 0;
    static uint32_t lost[256];
    static int lost_count;
    uint32_t sequence;
    memcpy(&sequence, data + header + 4, 4);
    for (int i = 0; i < lost_count; i++)
        if (lost[i] == sequence) return 0;
    if (lost_count == end->to_lose) return 0;
    lost[lost_count++] = sequence;
    return 1;
}

static void *sends_back(void *argument) {
    struct far_end *end = argument;
    unsigned first = 0, last = 0;
    for (;;) {
        // It looks very often, so that what it adds is little.
        struct packet *packet = &waiting[last % WAITING_MAX];
        int bytes = last - first < WAITING_MAX ? read(end->tunnel, packet->data, sizeof packet->data) : -1;
        if (bytes >= 40 && packet->data[0] >> 4 == 4 && packet->data[9] == IPPROTO_TCP &&
            !is_lost(end, packet->data, bytes)) {
            // With its addresses exchanged it comes from the one that it was for. The checksums stay right: they are sums.
            unsigned char address[4];
            memcpy(address, packet->data + 12, 4);
            memcpy(packet->data + 12, packet->data + 16, 4);
            memcpy(packet->data + 16, address, 4);
            packet->bytes = bytes;
            packet->due = now() + end->delay;
            last++;
        }
        while (first != last && waiting[first % WAITING_MAX].due <= now()) {
            struct packet *due = &waiting[first++ % WAITING_MAX];
            if (write(end->tunnel, due->data, due->bytes) != due->bytes) fail("write to the tunnel");
        }
        if (bytes < 0) {
            struct timespec time = {0, 50000};
            nanosleep(&time, NULL);
        }
    }
    return NULL;
}

static int open_tunnel(void) {
    if (unshare(CLONE_NEWNET) != 0) fail("a network of its own");
    int tunnel = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (tunnel < 0) fail("/dev/net/tun");
    struct ifreq request = {0};
    strcpy(request.ifr_name, "far");
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (ioctl(tunnel, TUNSETIFF, &request) != 0) fail("TUNSETIFF");
    int control = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in *address = (struct sockaddr_in *)&request.ifr_addr;
    address->sin_family = AF_INET;
    inet_pton(AF_INET, "10.77.0.1", &address->sin_addr);
    if (ioctl(control, SIOCSIFADDR, &request) != 0) fail("SIOCSIFADDR");
    inet_pton(AF_INET, "255.255.255.0", &address->sin_addr);
    if (ioctl(control, SIOCSIFNETMASK, &request) != 0) fail("SIOCSIFNETMASK");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(control, SIOCSIFFLAGS, &request) != 0) fail("SIOCSIFFLAGS");
    close(control);
    return tunnel;
}

// What the kernel counted in this network.
static long retransmits(void) {
    FILE *file = fopen("/proc/thread-self/net/snmp", "r");
    char names[1024], values[1024];
    while (file && fgets(names, sizeof names, file) && fgets(values, sizeof values, file)) {
        if (strncmp(names, "Tcp:", 4) != 0) continue;
        char *name_at, *value_at;
        char *name = strtok_r(names, " \n", &name_at), *value = strtok_r(values, " \n", &value_at);
        while (name && value && strcmp(name, "RetransSegs") != 0) {
            name = strtok_r(NULL, " \n", &name_at);
            value = strtok_r(NULL, " \n", &value_at);
        }
        fclose(file);
        return value ? atol(value) : -1;
    }
    return -1;
}

static int connect_to(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &address.sin_addr);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(client, (struct sockaddr *)&address, sizeof address) == 0) return client;
    int error = errno;
    close(client);
    errno = error;
    return -1;
}

// Sends so many bytes at once, in buffers of several segments each. They must fit into what the kernel takes without a reader.
static void send_at_once(int client, int server, long bytes) {
    char *data = malloc(bytes);
    memset(data, 'L', bytes);
    if (write(client, data, bytes) != bytes) fail("bytes into the tunnel");
    for (long got, left = bytes; left > 0; left -= got)
        if ((got = read(server, data, left)) <= 0) fail("bytes out of the tunnel");
    free(data);
}

// Waits until all that was sent is answered: what is not may be sent again.
static void wait_for_answers(int client) {
    int unanswered;
    struct timespec pause = {0, 1000000};
    while (ioctl(client, SIOCOUTQ, &unanswered) == 0 && unanswered > 0) nanosleep(&pause, NULL);
}

static void tunnel(double delay_ms, int connects, int segments, int to_lose, long bytes) {
    static struct far_end end;
    end = (struct far_end){open_tunnel(), delay_ms / 1e3, to_lose};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(7)};
    inet_pton(AF_INET, "10.77.0.1", &address.sin_addr);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1000) != 0) fail("listen");
    pthread_t thread;
    pthread_create(&thread, NULL, sends_back, &end);

    // To 10.77.0.2 goes what comes back to 10.77.0.1 from there.
    double *seconds = calloc(connects, sizeof *seconds);
    int client = -1, server = -1;
    for (int i = 0; i < connects; i++) {
        if (client >= 0) close(client);
        if (server >= 0) close(server);
        double begin = now();
        client = connect_to("10.77.0.2", 7);
        if (client < 0) fail("connect");
        seconds[i] = now() - begin;
        server = accept(listener, NULL, NULL);
        if (server < 0) fail("accept");
    }
    double sum = 0;
    for (int i = 0; i < connects; i++) sum += seconds[i];
    printf("connect_seconds %.9f %.9f\n", median(seconds, connects), sum / connects);

    int yes = 1;
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct tcp_info info;
    socklen_t length = sizeof info;
    double most = 0;
    for (int i = 0; i < segments; i++) {
        // Each is read before the next: a segment for each write.
        char byte = i < to_lose ? 'L' : '.', answer;
        if (write(client, &byte, 1) != 1 || read(server, &answer, 1) != 1) fail("a byte through the tunnel");
        getsockopt(client, IPPROTO_TCP, TCP_INFO, &info, &length);
        if (info.tcpi_rtt / 1e6 > most) most = info.tcpi_rtt / 1e6;
    }
    if (bytes > 0) send_at_once(client, server, bytes);
    wait_for_answers(client);
    printf("rtt_seconds %.9f\nretransmits %ld\n", most, retransmits());
}

static void processes(int count) {
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0) fail("fork");
        if (child == 0) {
            syscall(SYS_getppid);
            _exit(0);
        }
        if (waitpid(child, NULL, 0) != child) fail("waitpid");
    }
    printf("processes %d\n", count);
}

static void refused(int count) {
    for (int i = 0; i < count; i++)
        if (connect_to("127.0.0.1", 1) >= 0 || errno != ECONNREFUSED) fail("a connection that should be refused");
    printf("refused %d\n", count);
}

int main(int count, char **words) {
    // Timers end when they are due, and not when it suits.
    prctl(PR_SET_TIMERSLACK, 1);
    if (count > 1 && strcmp(words[1], "wait") == 0) {
        sigset_t signals;
        struct timespec pause = {0, 1000000};
        sigemptyset(&signals);
        sigaddset(&signals, SIGUSR1);
        sigprocmask(SIG_BLOCK, &signals, NULL);
        puts("ready");
        fflush(stdout);
        // It stays blocked, so that everybody can see that it is waited for.
        while (sigpending(&signals) == 0 && !sigismember(&signals, SIGUSR1)) nanosleep(&pause, NULL);
        words++;
        count--;
    }
    if (count == 2 && strcmp(words[1], "bimodal") == 0) {
        bimodal();
    } else if (count == 5 && strcmp(words[1], "reads") == 0) {
        reads(words[2], atoi(words[3]), atol(words[4]));
    } else if (count == 3 && strcmp(words[1], "faults") == 0) {
        faults(atol(words[2]));
    } else if (count == 7 && strcmp(words[1], "tunnel") == 0) {
        tunnel(atof(words[2]), atoi(words[3]), atoi(words[4]), atoi(words[5]), atol(words[6]));
    } else if (count == 3 && strcmp(words[1], "processes") == 0) {
        processes(atoi(words[2]));
    } else if (count == 3 && strcmp(words[1], "refused") == 0) {
        refused(atoi(words[2]));
    } else {
        fprintf(stderr, "latencies: see the head of latencies.c\n");
        return 2;
    }
    return 0;
}
