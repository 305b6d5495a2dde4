/*
 * Whatever libtss2-tctildr can load.
 *
 * That library and those that it loads write their errors to descriptor 2, where the host may have a peer, and leave descriptors
 * open that the host may close. So they are called by a thread with descriptors of its own (unshare(2), CLONE_FILES), of which the
 * first three lead to /dev/null. It has all signals blocked: what it writes to closed sockets ends with it.
 */

#include "tctildr.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <tss2/tss2_tctildr.h>

#include "deadline.h"
#include "root.h"
#include "secure.h"
#include "signals.h"

static int errno_of_tctildr(TSS2_RC code)
{
    switch (code & 0xFFFF) {
    case TSS2_RC_SUCCESS:
        return 0;
    case TSS2_BASE_RC_NO_CONNECTION:
    case TSS2_BASE_RC_NOT_IMPLEMENTED:
        return ENODEV;
    case TSS2_BASE_RC_BAD_VALUE:
    case TSS2_BASE_RC_NOT_SUPPORTED:
        return EINVAL;
    case TSS2_BASE_RC_TRY_AGAIN:
        return ETIMEDOUT;
    case TSS2_BASE_RC_MEMORY:
        return ENOMEM;
    default:
        return EIO;
    }
}

static void await_semaphore(sem_t *semaphore)
{
    while (sem_wait(semaphore) && errno == EINTR)
        ;
}

/* 0, or an errno: the thread still shares the host's descriptors. */
static int leave_descriptors(void)
{
    if (syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, CLOSE_RANGE_UNSHARE))
        return errno;
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; nothing >= 0 && i <= STDERR_FILENO; i++)
        if (dup2(nothing, i) < 0)
            return errno;
    return nothing < 0 ? errno : 0;
}

static void *serve(void *argument)
{
    connection *c = argument;
    c->tctildr.error = leave_descriptors();
    for (;;) {
        sem_post(&c->tctildr.done);
        await_semaphore(&c->tctildr.asked);
        if (!c->tctildr.work)
            return NULL;
        c->tctildr.error = c->tctildr.work(c);
    }
}

/* Lets the thread do something, and gives what that gives. */
static int ask_tctildr(connection *c, int (*work)(connection *))
{
    c->tctildr.work = work;
    sem_post(&c->tctildr.asked);
    await_semaphore(&c->tctildr.done);
    return c->tctildr.error;
}

static int start_tctildr(connection *c)
{
    sigset_t old;
    sem_init(&c->tctildr.asked, 0, 0);
    sem_init(&c->tctildr.done, 0, 0);
    block_signals(&old);
    int error = pthread_create(&c->tctildr.thread, NULL, serve, c);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    c->tctildr.runs = !error;
    if (error)
        return error;
    await_semaphore(&c->tctildr.done);
    return c->tctildr.error;
}

static int initialize_tctildr(connection *c)
{
    return errno_of_tctildr(Tss2_TctiLdr_Initialize(c->tcti, &c->tctildr.context));
}

static int finalize_tctildr(connection *c)
{
    Tss2_TctiLdr_Finalize(&c->tctildr.context);
    return 0;
}

void close_tctildr(connection *c)
{
    if (!c->tctildr.runs)
        return;
    if (c->tctildr.context)
        ask_tctildr(c, finalize_tctildr);
    c->tctildr.work = NULL;
    sem_post(&c->tctildr.asked);
    pthread_join(c->tctildr.thread, NULL);
    c->tctildr.runs = false;
}

int open_tctildr(connection *c)
{
    if (secure())
        return CONNECTION_REFUSED_IN_SETUID;
    if (!has_first_root())
        return CONNECTION_REFUSED_IN_NEW_ROOT;
    int error = start_tctildr(c);
    if (!error)
        error = ask_tctildr(c, initialize_tctildr);
    if (error)
        close_tctildr(c);
    return error;
}

/* As await() does it, where the library that was loaded can: that of the simulator, for one, waits without end. */
static TSS2_RC receive(connection *c)
{
    TSS2_RC code;
    int left;
    do {
        left = ms_until(c->deadline);
        *c->tctildr.response_size = RESPONSE_SIZE;
        code = Tss2_Tcti_Receive(c->tctildr.context, c->tctildr.response_size, c->tctildr.response, left < LOOK_MS ? left : LOOK_MS);
    } while ((code & 0xFFFF) == TSS2_BASE_RC_TRY_AGAIN && left && c->wish == GO_ON);
    return code;
}

static int exchange(connection *c)
{
    TSS2_RC code = Tss2_Tcti_Transmit(c->tctildr.context, c->tctildr.size, c->tctildr.command);
    int error = errno_of_tctildr(code ? code : receive(c));
    return error ? error : *c->tctildr.response_size < HEADER_SIZE ? EIO : 0;
}

int transact_tctildr(connection *c, const uint8_t *command, size_t size, uint8_t *response, size_t *response_size)
{
    c->tctildr.command = command;
    c->tctildr.size = size;
    c->tctildr.response = response;
    c->tctildr.response_size = response_size;
    return ask_tctildr(c, exchange);
}
