/* The idle timer: a thread that lives from the opening to the end of the connection, at most idle_ms after its last use, and
 * not longer than the process wants to. */

#include "idle_timer.h"

#include <pthread.h>
#include <time.h>

#include "deadline.h"
#include "device.h"
#include "exit.h"
#include "signals.h"

static void *watch(void *argument)
{
    connection *c = argument;
    struct timespec now, soon, end;
    pthread_mutex_lock(&c->lock);
    while (c->is_open) {
        bool lingers = c->kind == SWTPM && c->own.fd >= 0;
        end = later(c->last_use, lingers && !c->acting ? LINGER_MS : c->idle_ms);
        clock_gettime(CLOCK_MONOTONIC, &now);
        soon = later(now, LINGER_MS); /* nobody says when an action ends */
        if (!process_ends && is_before(now, end))
            pthread_cond_timedwait(&c->wake, &c->lock, lingers && is_before(soon, end) ? &soon : &end);
        else if (lingers && !c->acting && !process_ends)
            hang_up(c);
        else
            shut(c, FLUSH_MS);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

void start_timer(connection *c)
{
    sigset_t old;
    pthread_attr_t attributes;
    if (c->idle_ms <= 0 || pthread_attr_init(&attributes))
        return;
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    block_signals(&old);
    c->timer_started = !pthread_create(&c->timer, &attributes, watch, c);
    if (c->timer_started)
        pthread_setname_np(c->timer, "p11tpm-idle"); /* for whoever wonders what it is */
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
}

void join_timer(connection *c)
{
    if (!c->timer_started)
        return;
    pthread_t timer = c->timer;
    c->timer_started = false;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    pthread_join(timer, NULL);
    pthread_mutex_lock(&c->lock);
}
