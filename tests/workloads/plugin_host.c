// plugin_host file|memfd LIBRARY [ROUNDS]: burns on its own, loads the library, burns in it, unloads it, burns on its
// own again; ROUNDS times. With `memfd` the library is first copied into a memfd: its code has no path.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "burn.h"

FRAME void host_alone(double seconds) {
    burn(seconds);
    after_call++;
}

FRAME void host_calls(void (*outer)(double), double seconds) {
    outer(seconds);
    after_call++;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

// Copies the file into a memfd; writes the path by which to open it.
static int copy_to_memfd(const char *path, char *memfd_path, size_t memfd_path_bytes) {
    int from = open(path, O_RDONLY | O_CLOEXEC);
    int to = memfd_create("plugin", MFD_CLOEXEC);
    if (from < 0 || to < 0) {
        fail("plugin_host: opening the library and a memfd");
    }
    char bytes[4096];
    ssize_t count;
    while ((count = read(from, bytes, sizeof bytes)) > 0) {
        if (write(to, bytes, (size_t)count) != count) {
            fail("plugin_host: copying the library");
        }
    }
    close(from);
    snprintf(memfd_path, memfd_path_bytes, "/proc/self/fd/%d", to);
    return to;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: plugin_host file|memfd LIBRARY [ROUNDS]\n");
        return 2;
    }
    int rounds = argc > 3 ? atoi(argv[3]) : 3;
    for (int round = 0; round < rounds; round++) {
        host_alone(0.1);
        char path[4096];
        int memfd = -1;
        if (strcmp(argv[1], "memfd") == 0) {
            memfd = copy_to_memfd(argv[2], path, sizeof path);
        } else {
            snprintf(path, sizeof path, "%s", argv[2]);
        }
        void *library = dlopen(path, RTLD_NOW);
        if (library == NULL) {
            fprintf(stderr, "plugin_host: %s\n", dlerror());
            return 1;
        }
        void (*outer)(double) = (void (*)(double))dlsym(library, "plugin_outer");
        if (outer == NULL) {
            fprintf(stderr, "plugin_host: %s\n", dlerror());
            return 1;
        }
        host_calls(outer, 0.5);
        dlclose(library);
        if (memfd >= 0) {
            close(memfd);
        }
        host_alone(0.1);
    }
    return 0;
}
