// The library that plugin_host loads. True chain: …, main, host_calls, plugin_outer, plugin_inner, plugin_hot.
#include "burn.h"

FRAME void plugin_hot(double seconds) {
    burn(seconds);
    after_call++;
}

FRAME void plugin_inner(double seconds) {
    plugin_hot(seconds);
    after_call++;
}

FRAME void plugin_outer(double seconds) {
    plugin_inner(seconds);
    after_call++;
}
