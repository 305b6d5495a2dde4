/* Opening, one command, closing, and what is left in the TPM meanwhile. */

#include "connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "deadline.h"
#include "device.h"
#include "exit.h"
#include "idle_timer.h"
#include "swtpm.h"
#include "tabrmd.h"
#include "tctildr.h"

static int transact_socket(connection *c, const uint8_t *command, size_t size, uint8_t *response, size_t *response_size)
{
    int error = c->kind == SWTPM ? begin_swtpm(c) : has_own(c) ? 0 : CONNECTION_STALE;
    if (!error)
        error = write_all(c, command, size);
    if (!error)
        error = read_response(c, response, response_size);
    if (c->kind == SWTPM && (error || !c->acting))
        linger(c, error);
    return error;
}

static int transact(connection *c, const uint8_t *command, size_t size, uint8_t *response, size_t *response_size)
{
    return (c->kind == TCTILDR ? transact_tctildr : transact_socket)(c, command, size, response, response_size);
}

/* ---- what is left in the TPM */

#if !defined MAKES_HANDLE || !defined ENDS_HANDLE
#error "MAKES_HANDLE, ENDS_HANDLE: codes of commands, which build.py takes from p11tpm/tpm/command.py"
#endif
/* Commands whose response begins with the handle of something new; commands that end what their first handle, or only
 * parameter, stands for (TPM 2.0 Part 3). */
static const uint32_t makes_handle[] = { MAKES_HANDLE }, ends_handle[] = { ENDS_HANDLE };

#define IS_ONE_OF(code, codes) is_one_of(code, codes, sizeof(codes) / sizeof *(codes))

static bool is_one_of(uint32_t code, const uint32_t *codes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (codes[i] == code)
            return true;
    return false;
}

static void forget_handle(connection *c, uint32_t handle)
{
    size_t kept = 0;
    for (size_t i = 0; i < c->held_count; i++)
        if (c->held[i] != handle)
            c->held[kept++] = c->held[i];
    c->held_count = kept;
}

/* Python is not asked what it holds: an exception must not leave anything behind. */
static void follow_handles(connection *c, const uint8_t *command, size_t size, const uint8_t *response, size_t response_size)
{
    uint32_t code = be32(command + 6);
    if (be32(response + 6) != 0)
        return;
    if (IS_ONE_OF(code, ends_handle) && size >= HEADER_SIZE + 4)
        forget_handle(c, be32(command + HEADER_SIZE));
    else if (IS_ONE_OF(code, makes_handle) && response_size >= HEADER_SIZE + 4) {
        uint32_t handle = be32(response + HEADER_SIZE);
        forget_handle(c, handle);
        if (c->held_count < HELD_MAX)
            c->held[c->held_count++] = handle;
    }
}

/* False if the TPM did not answer: the next program flushes the rest, p11tpm/tpm/reclaim.py.
 *
 * The kernel's resource manager swaps all that is there in and out around each of these commands, and flushes it in close(2) by
 * fewer. But close(2) waits for the TPM for minutes, which one command, within `ms`, does not: it shows that the TPM answers. */
static bool flush_held(connection *c, int ms)
{
    bool answers = true;
    struct timespec end = from_now(ms);
    for (size_t most = c->kind == DEVICE && c->has_manager ? 1 : HELD_MAX; most && c->held_count && answers; most--) {
        uint32_t handle = c->held[--c->held_count];
        uint8_t flush[] = { 0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x65, (uint8_t)(handle >> 24), (uint8_t)(handle >> 16),
                            (uint8_t)(handle >> 8), (uint8_t)handle };
        uint8_t response[RESPONSE_SIZE];
        size_t response_size;
        c->deadline = end;
        int error = transact(c, flush, sizeof flush, response, &response_size);
        answers = !error || (error == CONNECTION_STALE && c->has_manager); /* which has flushed it */
    }
    c->held_count = 0;
    return answers;
}

bool shut(connection *c, int ms)
{
    if (!c->is_open)
        return true;
    bool flushed = flush_held(c, ms);
    if (c->kind == DEVICE)
        close_device(c);
    else
        hang_up(c);
    close_tctildr(c);
    c->is_open = false;
    return flushed;
}

/* Closes without a word to the TPM. */
static void drop(connection *c)
{
    c->held_count = 0;
    shut(c, 0);
}

static enum kind kind_of(const char *tcti)
{
    static const char *const names[] = { [DEVICE] = "device", [SWTPM] = "swtpm", [TABRMD] = "tabrmd" };
    if (!strncmp(tcti, "libtss2-tcti-", 13)) /* as the library allows */
        tcti += 13;
    size_t length = strcspn(tcti, ":.");
    for (enum kind kind = DEVICE; kind < TCTILDR; kind++)
        if (strlen(names[kind]) == length && !strncmp(tcti, names[kind], length))
            return kind;
    return TCTILDR;
}

/* ---- for Python; each of these runs without the GIL */

connection *connection_new(const char *tcti, int idle_ms)
{
    connection *c = calloc(1, sizeof *c);
    pthread_condattr_t attributes;
    pthread_mutexattr_t checking;
    if (!c || !(c->tcti = strdup(tcti))) {
        free(c);
        return NULL;
    }
    c->kind = kind_of(tcti);
    c->own.fd = c->watch.fd = -1;
    c->idle_ms = idle_ms;
    c->owner = getpid();
    pthread_mutexattr_init(&checking);
    pthread_mutexattr_settype(&checking, PTHREAD_MUTEX_ERRORCHECK); /* a signal handler may call exit(3) */
    pthread_mutex_init(&c->lock, &checking);
    pthread_mutexattr_destroy(&checking);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    register_connection(c);
    return c;
}

int connection_open(connection *c, int given, uint64_t *epoch)
{
    static int (*const openers[])(connection *) = {
        [DEVICE] = open_device, [SWTPM] = open_swtpm, [TABRMD] = open_tabrmd, [TCTILDR] = open_tctildr,
    };
    int error = pthread_mutex_lock(&c->lock);
    if (error) {
        if (given >= 0)
            close(given);
        return error;
    }
    int given_up = GIVE_UP;
    if (atomic_compare_exchange_strong(&c->wish, &given_up, GO_ON))
        drop(c);
    if (!c->is_open)
        join_timer(c);
    if (c->wish == END || (!c->is_open && process_ends)) {
        error = ECANCELED;
    } else if (!c->is_open) {
        if (c->kind == TABRMD) {
            hold(&c->own, given);
            given = -1;
        }
        error = openers[c->kind](c);
        if (!error) {
            c->is_open = true;
            c->epoch++;
            c->held_count = 0;
            start_timer(c); /* has to wait for the lock */
        }
    }
    if (given >= 0)
        close(given); /* it came too late */
    c->acting = !error;
    clock_gettime(CLOCK_MONOTONIC, &c->last_use);
    *epoch = c->epoch;
    pthread_mutex_unlock(&c->lock);
    return error;
}

void connection_rest(connection *c)
{
    if (pthread_mutex_lock(&c->lock))
        return;
    c->acting = false;
    if (c->kind == SWTPM)
        linger(c, 0);
    pthread_mutex_unlock(&c->lock);
}

int connection_transact(connection *c, uint64_t epoch, int ms, const uint8_t *command, size_t size,
                        uint8_t *response, size_t *response_size)
{
    int error = pthread_mutex_lock(&c->lock);
    if (error)
        return error;
    error = CONNECTION_STALE;
    if (size < HEADER_SIZE)
        error = EINVAL;
    else if (c->is_open && c->epoch == epoch) {
        c->deadline = from_now(ms);
        error = c->wish != GO_ON ? ECANCELED
            : lost_tabrmd(c)     ? CONNECTION_STALE
                                 : transact(c, command, size, response, response_size);
        if (error == EFAULT && c->has_manager) /* tpm2_load_context() and tpm2_save_context() of tpm2-space.c */
            error = CONNECTION_NOT_KEPT;
        if (!error)
            follow_handles(c, command, size, response, *response_size);
        else if (error == CONNECTION_STALE || error == CONNECTION_NOT_KEPT || error == ETIMEDOUT || error == ECANCELED)
            drop(c); /* without a word: another program may have our handles by now */
        clock_gettime(CLOCK_MONOTONIC, &c->last_use);
    }
    pthread_mutex_unlock(&c->lock);
    return error;
}

int connection_has_manager(const connection *c)
{
    return c->has_manager;
}

int connection_is_exclusive(const connection *c)
{
    return c->kind == DEVICE && !c->has_manager;
}

void connection_ended(connection *c, uint32_t handle)
{
    if (pthread_mutex_lock(&c->lock))
        return;
    forget_handle(c, handle);
    pthread_mutex_unlock(&c->lock);
}

int connection_close(connection *c, int ms)
{
    struct timespec end = from_now(ms);
    int error = pthread_mutex_clocklock(&c->lock, CLOCK_MONOTONIC, &end);
    if (error)
        return error;
    ms = ms_until(end);
    bool flushed = shut(c, ms < FLUSH_MS ? ms : FLUSH_MS);
    join_timer(c);
    pthread_mutex_unlock(&c->lock);
    return flushed ? 0 : ETIMEDOUT;
}

void connection_give_up(connection *c)
{
    int going_on = GO_ON;
    atomic_compare_exchange_strong(&c->wish, &going_on, GIVE_UP);
}

void connection_end(connection *c)
{
    c->wish = END;
}

void connection_free(connection *c)
{
    if (connection_close(c, FLUSH_MS) == EDEADLK || !unregister_connection(c))
        return;
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    if (c->address)
        freeaddrinfo(c->address);
    free(c->tcti);
    free(c);
}

void connection_abandon(connection *c)
{
    unregister_connection(c);
    let_go(&c->watch);
    let_go(&c->own);
}
