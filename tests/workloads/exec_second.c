// exec_second: what exec_first becomes. Linked at a fixed address like exec_first, so that their addresses collide.
// True chain: _start, libc, main, second_outer, second_hot.
#include "burn.h"

// Takes the place in memory that exec_first's functions had, with another frame.
FRAME void second_hot(double seconds) {
    volatile char bytes[3000];
    bytes[0] = 1;
    burn(seconds);
    bytes[1] = bytes[0];
    after_call++;
}

FRAME void second_outer(double seconds) {
    second_hot(seconds);
    after_call++;
}

int main(void) {
    second_outer(0.7);
    return 0;
}
