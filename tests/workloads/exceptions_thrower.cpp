// The library that throws.
#include "burn.h"

FRAME void thrower(double seconds) {
    if (seconds >= 0) {
        throw 1;
    }
    after_call = after_call + 1;
}
