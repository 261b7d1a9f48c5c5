// vfork_exec [SECONDS]: a vfork child burns on its parent's memory and stack, then execs a second image of this program,
// which burns in another function.
// True chains: _start, libc, main, vfork_caller, vfork_child (in a process of its own, before exec);
//              _start, libc, main, after_exec (the same process, after exec).
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "burn.h"

FRAME void after_exec(double seconds) {
    burn(seconds);
    after_call++;
}

FRAME void vfork_child(double seconds) {
    burn(seconds);
    after_call++;
}

FRAME int vfork_caller(const char *path, double seconds) {
    pid_t child = vfork();
    if (child == 0) {
        vfork_child(seconds);
        execl(path, "vfork_exec", "after-exec", (char *)NULL);
        _exit(127);
    }
    int status = 1;
    waitpid(child, &status, 0);
    after_call++;
    return status;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "after-exec") == 0) {
        after_exec(0.7);
        return 0;
    }
    // Not "/proc/self/exe" itself: the second image would be named after that.
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0) {
        perror("vfork_exec: readlink");
        return 1;
    }
    path[length] = 0;
    return vfork_caller(path, argc > 1 ? atof(argv[1]) : 0.7) == 0 ? 0 : 1;
}
