// exit_with STATUS | exit_with signal N: ends at once, in the way that is asked for.
#include <signal.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "signal") == 0) {
        raise(atoi(argv[2]));
        return 99;
    }
    return argc == 2 ? atoi(argv[1]) : 98;
}
