/* A connection to a TPM: opening, one command, closing, and what is left in the TPM meanwhile. */

#pragma once

#include <netdb.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>
#include <time.h>

#include <tss2/tss2_tcti.h>

#include "descriptor.h"

#define CONNECTION_STALE (-1)
#define CONNECTION_REFUSED_IN_SETUID (-2)
#define CONNECTION_WANTS_SOCKET (-3)
#define CONNECTION_REFUSED_IN_NEW_ROOT (-4)
#define CONNECTION_NOT_KEPT (-5)
#define RESPONSE_SIZE 4096
#define HEADER_SIZE 10 /* tag, size, command or response code: TPM 2.0 Part 1, clause 16 */
#define LINGER_MS 4 /* after an action, swtpm's socket is kept for the next one ... */
#define TURN_MS 50 /* ... but after this in all only until connection_rest(), since nobody else is served meanwhile */
#define OPEN_MS 30000 /* for so long swtpm's socket may be served to others before us */
#define REST_MS 1000 /* a TPM may take minutes for an RSA key, but sends a response at once */
#define FLUSH_MS 2000 /* for so long a connection's end waits for the TPM */
#define LOOK_MS 100 /* who waits for the TPM looks so often whether he is still to */
#define EXIT_MS 2000 /* longer than this the end of the process does not wait for the TPM */
#define CONNECTIONS_MAX 64
#define HELD_MAX 16

enum kind { DEVICE, SWTPM, TABRMD, TCTILDR };
enum wish { GO_ON, GIVE_UP, END }; /* the command that is under way; everything, for ever */

typedef struct connection {
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t wake;
    pthread_t timer;
    bool timer_started; /* to be joined before the next one is started */
    bool is_open;
    bool has_manager; /* a resource manager flushes what a process leaves: while open */
    bool is_registered;
    pid_t owner;
    uint64_t epoch; /* counts the times it was opened: objects that were loaded in an older epoch are gone */
    int idle_ms;
    atomic_int wish; /* any thread may write it */
    struct timespec deadline; /* of the command that is under way */
    struct timespec last_use;
    struct timespec connected; /* swtpm */
    bool acting; /* swtpm: between connection_open() and connection_rest(), when nobody else is to be served */
    enum kind kind;
    char *tcti;
    descriptor own; /* device, tabrmd: while open; swtpm: during commands in a row, see linger() */
    descriptor watch; /* device: says when there is something to read; if there is none, poll(2) does */
    bool asked; /* device: the driver has a command, and its response was not read */
    bool kept; /* device: and a keeper waits for it */
    struct addrinfo *address;
    struct sockaddr_un path;
    struct { /* the thread that calls what libtss2-tctildr has loaded, and what it is asked to do */
        pthread_t thread;
        bool runs;
        sem_t asked, done;
        int (*work)(struct connection *); /* NULL: end */
        int error;
        TSS2_TCTI_CONTEXT *context;
        const uint8_t *command;
        size_t size, *response_size;
        uint8_t *response;
    } tctildr;
    uint32_t held[HELD_MAX]; /* sessions and objects that commands on this connection left in the TPM */
    size_t held_count;
} connection;

/* ---- for Python; each of these runs without the GIL */

/* A connection that is not open yet. `tcti` as for Tss2_TctiLdr_Initialize; after `idle_ms` without a command everything that
 * was left in the TPM is flushed and the connection closed (0: never, and no thread). NULL: no memory. */
connection *connection_new(const char *tcti, int idle_ms);

/* Opens what is not open and gives the epoch. 0, an errno (ECANCELED: the process ends, or connection_end() was called),
 * CONNECTION_REFUSED_IN_SETUID, or CONNECTION_REFUSED_IN_NEW_ROOT. CONNECTION_WANTS_SOCKET: to be called again with the
 * descriptor of a socket from tpm2-abrmd as `given` (else -1), which then belongs to the connection. */
int connection_open(connection *c, int given, uint64_t *epoch);

/* Says that the commands since connection_open() were all that belong together. Without a resource manager another program may
 * flush what is ours after that, and have something else at its handle. */
void connection_rest(connection *c);

/* Sends one command and gives the response (at most RESPONSE_SIZE bytes), which has to come within `ms`. 0, an errno, or
 * CONNECTION_STALE when the connection is not the one of `epoch` any more, or the host has closed it: then nothing was sent;
 * CONNECTION_NOT_KEPT: the kernel's resource manager could not load what is ours before the command, or save it afterwards.
 * After these, ETIMEDOUT and ECANCELED (connection_give_up() was called) the connection is closed. */
int connection_transact(connection *c, uint64_t epoch, int ms, const uint8_t *command, size_t size,
                        uint8_t *response, size_t *response_size);

/* Whether a resource manager keeps what other programs have in the TPM apart from what is ours. */
int connection_has_manager(const connection *c);

/* Whether no other program can have the TPM open: Linux opens a device without a resource manager once (tpm-dev.c). */
int connection_is_exclusive(const connection *c);

/* Says that a command ended a session of ours without FlushContext. */
void connection_ended(connection *c, uint32_t handle);

/* Flushes what was left in the TPM, closes, and waits for the timer thread to end, for `ms` in all. 0; ETIMEDOUT if something is
 * left there; EDEADLK, as all that take the lock: this was called by a signal handler in the middle of a command. */
int connection_close(connection *c, int ms);

/* Lets whoever waits for the TPM on this connection give up, within LOOK_MS, and close it; the next one opens it again. */
void connection_give_up(connection *c);

/* As connection_give_up(), and nobody opens it again. */
void connection_end(connection *c);

/* Closes the connection and frees it; a connection that somebody else still needs stays where it is. */
void connection_free(connection *c);

/* In a forked child: lets go of the parent's descriptors. The lock may be held by a thread that does not exist here, so
 * it is not taken; nothing is sent, flushed or finalised; the memory is left alone. */
void connection_abandon(connection *c);

/* ---- for the ways to a TPM and the idle timer */

/* A number of 32 bits in a command or a response. */
static inline uint32_t be32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* Flushes what was left in the TPM, in `ms` at most, and closes; false if something is still there. */
bool shut(connection *c, int ms);
