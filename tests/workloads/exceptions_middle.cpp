// The library between the one that throws and the program that catches: it has something to clean up.
#include "burn.h"

FRAME void thrower(double seconds);

FRAME void cleans_up(int *value) {
    *value = 0;
}

struct Guard {
    int value = 1;
    ~Guard() { cleans_up(&value); }
};

FRAME void middle(double seconds) {
    Guard guard;
    thrower(seconds);
    after_call = after_call + 1;
}
