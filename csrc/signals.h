/* Threads and processes of ours get none of the host's signals. */

#pragma once

#include <signal.h>

/* Blocks all signals, which what is started inherits; `old` is what to go back to. */
static inline void block_signals(sigset_t *old)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, old);
}
