// The library that throws, from far below: most of the time is then spent looking for the handler. At its end the stack is
// rewritten for the jump to the handler, and for some instructions nobody can tell who called whom.
#include "burn.h"

#define DEPTH 100

FRAME void descend(int depth) {
    if (depth == 0) {
        throw 1;
    }
    descend(depth - 1);
    after_call = after_call + 1;
}

FRAME void thrower(double seconds) {
    if (seconds >= 0) {
        descend(DEPTH);
    }
    after_call = after_call + 1;
}
