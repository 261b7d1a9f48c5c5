// exceptions [SECONDS]: throws through a library that does not catch but cleans up, in a loop.
// True chains: _start, libc, main, catcher, middle, thrower, descend (101 times), [libstdc++ and libgcc];
//              _start, libc, main, catcher, middle, [_Unwind_Resume, after middle's clean-up];
//              _start, libc, main, catcher, [the catch].
#include <cstdlib>

#include "burn.h"

FRAME void middle(double seconds);

FRAME void catcher(double seconds) {
    try {
        middle(seconds);
    } catch (int value) {
        after_call = after_call + static_cast<unsigned long>(value);
    }
}

int main(int argc, char **argv) {
    double end_seconds = argc > 1 ? atof(argv[1]) : 1.5;
    while (thread_cpu_seconds() < end_seconds) {
        catcher(0);
    }
    return 0;
}
