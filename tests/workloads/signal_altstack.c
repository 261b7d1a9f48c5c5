// signal_altstack [SECONDS]: a timer interrupts `interrupted` at arbitrary instructions; the handler burns on a stack of
// its own. True chain of the handler: _start, libc, main, interrupted, [what it called], libc's signal return, on_timer,
// handler_work. The signal return (`__restore_rt`) is a local symbol that a stripped libc does not name.
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "burn.h"

FRAME void handler_work(void) {
    burn(0.004);
    after_call++;
}

static void arm(void) {
    struct itimerval once = {.it_value = {.tv_usec = 2000}};
    setitimer(ITIMER_REAL, &once, NULL);
}

FRAME void on_timer(int signal) {
    (void)signal;
    handler_work();
    arm();
}

FRAME void interrupted(double end_seconds) {
    burn_until(end_seconds);
    after_call++;
}

int main(int argc, char **argv) {
    stack_t stack = {.ss_size = 256 * 1024};
    stack.ss_sp = malloc(stack.ss_size);
    sigaltstack(&stack, NULL);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_timer;
    action.sa_flags = SA_ONSTACK | SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    arm();
    interrupted(argc > 1 ? atof(argv[1]) : 1.5);
    return 0;
}
