// exec_first SECOND: burns, then becomes another program (exec_second): the same process id, other code at like addresses.
// True chains: _start, libc, main, before_exec; and exec_second's.
#include <stdio.h>
#include <unistd.h>

#include "burn.h"

FRAME void before_exec(double seconds) {
    burn(seconds);
    after_call++;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: exec_first SECOND\n");
        return 2;
    }
    before_exec(0.7);
    execl(argv[1], "exec_second", (char *)NULL);
    perror("exec_first: execl");
    return 1;
}
