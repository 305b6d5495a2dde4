/* The end of a process that did not call C_Finalize: what it left in a TPM without a resource manager is flushed.
 *
 * By then other threads may be anywhere, in Python or in the middle of a command, and the TPM may not answer. So nothing of
 * Python is used, no lock is waited for longer than EXIT_MS, and it is the idle timer's thread that talks to the TPM: if it
 * does not come back in time, it ends with the process. Nothing catches _exit(2) and SIGKILL: p11tpm/tpm/reclaim.py. */

#include "exit.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "deadline.h"

static connection *_Atomic connections[CONNECTIONS_MAX]; /* a pointer belongs to whoever takes it out */
atomic_bool process_ends;

void register_connection(connection *c)
{
    for (size_t i = 0; i < CONNECTIONS_MAX && !c->is_registered; i++) {
        connection *nothing = NULL;
        c->is_registered = atomic_compare_exchange_strong(&connections[i], &nothing, c);
    }
}

bool unregister_connection(connection *c)
{
    bool ours = !c->is_registered;
    for (size_t i = 0; i < CONNECTIONS_MAX && !ours; i++) {
        connection *expected = c;
        ours = atomic_compare_exchange_strong(&connections[i], &expected, NULL);
    }
    return ours;
}

/* Lets the idle timer flush and close a connection now, and waits for it. */
static void flush_before(connection *c, const struct timespec *deadline)
{
    if (pthread_mutex_clocklock(&c->lock, CLOCK_MONOTONIC, deadline))
        return; /* a command is under way, in another thread or below a signal handler that called exit(3) */
    pthread_t timer = c->timer;
    bool flushes = c->is_open && c->timer_started && !c->has_manager && c->held_count;
    if (flushes)
        c->timer_started = false; /* nobody else joins it */
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    if (flushes)
        pthread_clockjoin_np(timer, NULL, CLOCK_MONOTONIC, deadline);
}

/* A destructor and not atexit(3): what the host has registered there may still use the TPM. */
__attribute__((destructor)) static void end_of_process(void)
{
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline = later(deadline, EXIT_MS);
    process_ends = true;
    for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
        connection *c = atomic_exchange(&connections[i], NULL);
        if (c && c->owner == getpid()) /* not in a child, whatever made it */
            flush_before(c, &deadline);
    }
}
