// signal_entry [SECONDS]: a signal that strikes on the very first instruction of a function, before it has a frame. The
// interrupted address is then exact, not a return address: an unwinder that looks one byte below it takes the rules of
// the function before, which here has a frame of 4 KiB, and goes astray.
// True chain: _start, libc, main, trap_caller, trap_at_entry, libc's signal return, on_trap.
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "burn.h"

#define UD2_BYTES 2

// `trap_before` ends where `trap_at_entry` begins, with no padding, and with its big frame still in force in its table.
__asm__(
    ".text\n"
    ".type trap_before, @function\n"
    "trap_before:\n"
    ".cfi_startproc\n"
    "sub $4096, %rsp\n"
    ".cfi_adjust_cfa_offset 4096\n"
    "ud2\n"
    ".cfi_endproc\n"
    ".size trap_before, . - trap_before\n"
    ".globl trap_at_entry\n"
    ".type trap_at_entry, @function\n"
    "trap_at_entry:\n"
    ".cfi_startproc\n"
    "ud2\n"
    "ret\n"
    ".cfi_endproc\n"
    ".size trap_at_entry, . - trap_at_entry\n");
void trap_at_entry(void);

FRAME void on_trap(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    burn(0.010);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += UD2_BYTES;
}

FRAME void trap_caller(double end_seconds) {
    while (thread_cpu_seconds() < end_seconds) {
        trap_at_entry();
        after_call++;
    }
}

int main(int argc, char **argv) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_trap;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, NULL);
    trap_caller(argc > 1 ? atof(argv[1]) : 1.5);
    return 0;
}
