/*
 * p11tpm._native: what Python can not do for a guest in somebody else's process.
 *
 * A connection carries TPM commands to a device, to a swtpm socket or to whatever libtss2-tctildr can load. Devices and
 * swtpm sockets are opened here and not by that library, because it
 *  - writes its errors to the host's stderr and can be silenced by environment variables only, which belong to the host;
 *  - reads TSS2_LOGFILE by getenv(), and creates that file, even in a setuid program;
 *  - hides errno, so that "not in group tss" and "no TPM" look the same;
 *  - opens descriptors that a program started meanwhile by another thread inherits.
 * What the library still has to do (tabrmd, mssim, ...) may put its error lines on stderr, and is refused to setuid programs.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/obj_mac.h>
#include <tss2/tss2_tctildr.h>

#ifndef MODULE_PATH
#error "MODULE_PATH: where the PKCS#11 module of this build is"
#endif
static const char module_path[] = MODULE_PATH;
#undef MODULE_PATH
#define MODULE_PATH module_path

/* True in a program that runs with other rights than its caller's (getauxval(3), AT_SECURE). */
static int secure(void)
{
    return getauxval(AT_SECURE) != 0;
}

/* ---- Elliptic curve Diffie-Hellman for salted sessions ------------------------------------------------------------
 * Plain group arithmetic: neither EVP, nor engines, nor a random generator that the host's OpenSSL configuration could
 * replace, possibly by this very module. */

static bool put(const BIGNUM *number, uint8_t *out, int size)
{
    return BN_bn2binpad(number, out, size) == size;
}

/* One ephemeral key agreement on P-256 or P-384 (`bits`); all numbers big-endian, bits / 8 bytes long. `scalar` is the
 * private key in 1 ... order - 1, (x, y) the other side's point. Gives the own point and the x of the shared one; 0, or
 * -1 for a point that is not on the curve, another curve or a lack of memory. */
static int ecdh(int bits, const uint8_t *scalar, const uint8_t *x, const uint8_t *y,
                uint8_t *own_x, uint8_t *own_y, uint8_t *shared_x)
{
    int nid = bits == 256 ? NID_X9_62_prime256v1 : bits == 384 ? NID_secp384r1 : NID_undef;
    int size = bits / 8;
    EC_GROUP *group = nid == NID_undef ? NULL : EC_GROUP_new_by_curve_name(nid);
    if (!group)
        return -1;
    EC_POINT *theirs = EC_POINT_new(group), *result = EC_POINT_new(group);
    BN_CTX *context = BN_CTX_new();
    BIGNUM *d = BN_bin2bn(scalar, size, NULL), *px = BN_bin2bn(x, size, NULL), *py = BN_bin2bn(y, size, NULL);
    bool done = theirs && result && context && d && px && py;
    if (done) {
        BN_set_flags(d, BN_FLG_CONSTTIME);
        done = EC_POINT_set_affine_coordinates(group, theirs, px, py, context) == 1 /* refuses points off the curve */
            && EC_POINT_is_on_curve(group, theirs, context) == 1
            && EC_POINT_mul(group, result, d, NULL, NULL, context) == 1
            && EC_POINT_get_affine_coordinates(group, result, px, py, context) == 1
            && put(px, own_x, size) && put(py, own_y, size)
            && EC_POINT_mul(group, result, NULL, theirs, d, context) == 1
            && EC_POINT_get_affine_coordinates(group, result, px, py, context) == 1
            && put(px, shared_x, size);
    }
    BN_clear_free(d);
    BN_clear_free(px);
    BN_clear_free(py);
    EC_POINT_clear_free(result);
    EC_POINT_free(theirs);
    BN_CTX_free(context);
    EC_GROUP_free(group);
    return done ? 0 : -1;
}

/* ---- Connection ---------------------------------------------------------------------------------------------------- */

#define CONNECTION_STALE (-1)
#define CONNECTION_REFUSED_IN_SETUID (-2)
#define RESPONSE_SIZE 4096
#define HEADER_SIZE 10 /* tag, size, command or response code: TPM 2.0 Part 1, clause 16 */
#define LINGER_MS 4 /* after a command, swtpm's socket is kept for the next one ... */
#define TURN_MS 50 /* ... but no longer than this in all, since nobody else is served meanwhile */
#define REST_MS 1000 /* a TPM may take minutes for an RSA key, but sends a response at once */
#define HELD_MAX 16
#define POLL_MAX 8

enum kind { DEVICE, SWTPM, LOADER };

typedef struct connection {
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t wake;
    pthread_t timer;
    bool timer_started; /* to be joined before the next one is started */
    bool is_open;
    uint64_t epoch; /* counts the times it was opened: what was loaded in an older epoch is gone */
    int idle_ms;
    struct timespec last_use;
    struct timespec connected; /* swtpm */
    enum kind kind;
    char *tcti;
    int fd; /* device: while open; swtpm: during commands in a row, see linger() */
    struct addrinfo *address;
    struct sockaddr_un path;
    TSS2_TCTI_CONTEXT *loader;
    int poll_fds[POLL_MAX];
    size_t poll_count;
    uint32_t held[HELD_MAX]; /* sessions and objects that commands on this connection left in the TPM */
    size_t held_count;
} connection;

static uint32_t be32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static struct timespec later(struct timespec time, int ms)
{
    time.tv_sec += ms / 1000;
    time.tv_nsec += ms % 1000 * 1000000L;
    if (time.tv_nsec >= 1000000000L) {
        time.tv_sec++;
        time.tv_nsec -= 1000000000L;
    }
    return time;
}

static bool is_before(struct timespec a, struct timespec b)
{
    return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

/* The number is forgotten before the descriptor is closed: a child forked in between closes nothing that is not ours. */
static void close_fd(connection *c)
{
    int fd = c->fd;
    c->fd = -1;
    if (fd >= 0)
        close(fd);
}

/* Ends a conversation with swtpm. Closing is not enough: a child that was forked meanwhile may hold the socket too, and swtpm
 * would wait for that child before it serves anybody else. */
static void hang_up(connection *c)
{
    if (c->fd >= 0)
        shutdown(c->fd, SHUT_RDWR);
    close_fd(c);
}

/* ---- opening */

static int open_device(connection *c)
{
    const char *colon = strchr(c->tcti, ':');
    if (colon && colon[1]) {
        c->fd = open(colon + 1, O_RDWR | O_CLOEXEC);
        return c->fd < 0 ? errno : 0;
    }
    c->fd = open("/dev/tpmrm0", O_RDWR | O_CLOEXEC);
    if (c->fd < 0 && errno == ENOENT)
        c->fd = open("/dev/tpm0", O_RDWR | O_CLOEXEC);
    return c->fd < 0 ? errno : 0;
}

/* The value of one "name=value" of a comma-separated list, as new memory; NULL if it is not there. */
static char *setting(const char *list, const char *name)
{
    size_t length = strlen(name);
    while (list && *list) {
        size_t size = strcspn(list, ",");
        if (size > length && !strncmp(list, name, length) && list[length] == '=')
            return strndup(list + length + 1, size - length - 1);
        list += size + (list[size] == ',');
    }
    return NULL;
}

static int connect_swtpm(connection *c)
{
    int family = c->address ? c->address->ai_family : AF_UNIX;
    const struct sockaddr *address = c->address ? c->address->ai_addr : (struct sockaddr *)&c->path;
    socklen_t size = c->address ? c->address->ai_addrlen : sizeof c->path;
    c->fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return errno;
    if (connect(c->fd, address, size) == 0)
        return 0;
    int error = errno;
    if (error == EINTR) { /* goes on by itself: connect(2) */
        struct pollfd ready = { .fd = c->fd, .events = POLLOUT };
        socklen_t length = sizeof error;
        while (poll(&ready, 1, -1) < 0 && errno == EINTR)
            ;
        if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
            error = errno;
    }
    if (error)
        close_fd(c);
    return error;
}

/* Looks the address up; connected is for a few commands at a time, because swtpm serves one client at a time. */
static int open_swtpm(connection *c)
{
    const char *colon = strchr(c->tcti, ':');
    const char *list = colon ? colon + 1 : "";
    char *path = setting(list, "path"), *host = setting(list, "host"), *port = setting(list, "port");
    int error = 0;
    if (path) {
        c->path.sun_family = AF_UNIX;
        if (strlen(path) < sizeof c->path.sun_path)
            strcpy(c->path.sun_path, path);
        else
            error = ENAMETOOLONG;
    } else if (!c->address) {
        struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
        if (getaddrinfo(host ? host : "localhost", port ? port : "2321", &hints, &c->address))
            error = EHOSTUNREACH;
    }
    free(path);
    free(host);
    free(port);
    if (!error)
        error = connect_swtpm(c); /* says now whether anybody is there */
    hang_up(c);
    return error;
}

/* The library and those that it loads may start threads and write to closed sockets: neither may take the host's signals. */
static void block_signals(sigset_t *old)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, old);
}

static void unblock_signals(const sigset_t *old)
{
    sigset_t broken_pipe;
    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    if (!sigismember(old, SIGPIPE))
        while (sigtimedwait(&broken_pipe, NULL, &(struct timespec){ 0 }) > 0)
            ;
    pthread_sigmask(SIG_SETMASK, old, NULL);
}

static int errno_of_loader(TSS2_RC code)
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
    case TSS2_BASE_RC_MEMORY:
        return ENOMEM;
    default:
        return EIO;
    }
}

static void remember_poll_fds(connection *c)
{
    TSS2_TCTI_POLL_HANDLE handles[POLL_MAX];
    size_t count = 0;
    c->poll_count = 0;
    if (Tss2_Tcti_GetPollHandles(c->loader, NULL, &count) || count > POLL_MAX
        || Tss2_Tcti_GetPollHandles(c->loader, handles, &count))
        return;
    for (size_t i = 0; i < count; i++) {
        c->poll_fds[c->poll_count++] = handles[i].fd;
        fcntl(handles[i].fd, F_SETFD, fcntl(handles[i].fd, F_GETFD) | FD_CLOEXEC);
    }
}

static int open_loader(connection *c)
{
    sigset_t old;
    struct sigaction broken_pipe;
    if (secure())
        return CONNECTION_REFUSED_IN_SETUID;
    block_signals(&old);
    sigaction(SIGPIPE, NULL, &broken_pipe); /* GLib ignores it for the whole process */
    int error = errno_of_loader(Tss2_TctiLdr_Initialize(c->tcti, &c->loader));
    if (!error)
        remember_poll_fds(c);
    sigaction(SIGPIPE, &broken_pipe, NULL);
    unblock_signals(&old);
    return error;
}

/* ---- one command */

static int write_all(connection *c, const uint8_t *bytes, size_t size)
{
    if (c->kind == DEVICE) { /* a driver takes a command whole */
        ssize_t written;
        do
            written = write(c->fd, bytes, size);
        while (written < 0 && errno == EINTR);
        return written < 0 ? errno : (size_t)written == size ? 0 : EIO;
    }
    while (size) {
        ssize_t written = send(c->fd, bytes, size, MSG_NOSIGNAL);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return errno;
        bytes += written;
        size -= (size_t)written;
    }
    return 0;
}

static int read_response(connection *c, uint8_t *response, size_t *response_size)
{
    size_t have = 0, wanted = HEADER_SIZE;
    while (have < wanted) {
        struct pollfd ready = { .fd = c->fd, .events = POLLIN };
        if (have && poll(&ready, 1, REST_MS) == 0)
            return EIO; /* fewer bytes than the header says */
        ssize_t more = read(c->fd, response + have, RESPONSE_SIZE - have);
        if (more < 0 && errno == EINTR)
            continue;
        if (more <= 0)
            return more < 0 ? errno : EIO;
        have += (size_t)more;
        if (have >= HEADER_SIZE)
            wanted = be32(response + 2);
        if (wanted < HEADER_SIZE || wanted > RESPONSE_SIZE)
            return EIO;
    }
    *response_size = wanted;
    return have == wanted ? 0 : EIO;
}

static int transact_loader(connection *c, const uint8_t *command, size_t size, uint8_t *response, size_t *response_size)
{
    sigset_t old;
    block_signals(&old);
    TSS2_RC code = Tss2_Tcti_Transmit(c->loader, size, command);
    *response_size = RESPONSE_SIZE;
    if (!code)
        code = Tss2_Tcti_Receive(c->loader, response_size, response, TSS2_TCTI_TIMEOUT_BLOCK);
    unblock_signals(&old);
    int error = errno_of_loader(code);
    return error ? error : *response_size < HEADER_SIZE ? EIO : 0;
}

/* Whether the other end of a kept connection is still there: nothing can be read before something was asked. */
static bool is_alive(connection *c)
{
    struct pollfd quiet = { .fd = c->fd, .events = POLLIN };
    return poll(&quiet, 1, 0) == 0;
}

static int begin_swtpm(connection *c)
{
    if (c->fd >= 0 && is_alive(c))
        return 0;
    hang_up(c);
    int error = connect_swtpm(c);
    clock_gettime(CLOCK_MONOTONIC, &c->connected);
    pthread_cond_signal(&c->wake); /* the timer is to end this one sooner than the whole */
    return error;
}

/* Connecting costs as much as half a signature, so swtpm's socket is kept for a command that follows at once. */
static void linger(connection *c, int error)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (error || !c->timer_started || !is_before(now, later(c->connected, TURN_MS)))
        hang_up(c);
}

static int transact_socket(connection *c, const uint8_t *command, size_t size, uint8_t *response, size_t *response_size)
{
    int error = c->kind == SWTPM ? begin_swtpm(c) : 0;
    if (!error)
        error = write_all(c, command, size);
    if (!error)
        error = read_response(c, response, response_size);
    if (c->kind == SWTPM)
        linger(c, error);
    return error;
}

static int transact(connection *c, const uint8_t *command, size_t size, uint8_t *response, size_t *response_size)
{
    return (c->kind == LOADER ? transact_loader : transact_socket)(c, command, size, response, response_size);
}

/* ---- what is left in the TPM */

/* Commands whose response begins with the handle of something new (TPM 2.0 Part 3). */
static bool makes_handle(uint32_t code)
{
    switch (code) {
    case 0x131: /* CreatePrimary */
    case 0x157: /* Load */
    case 0x161: /* ContextLoad */
    case 0x167: /* LoadExternal */
    case 0x176: /* StartAuthSession */
    case 0x191: /* CreateLoaded */
        return true;
    default:
        return false;
    }
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
    if (code == 0x165 && size >= HEADER_SIZE + 4) /* FlushContext */
        forget_handle(c, be32(command + HEADER_SIZE));
    else if (makes_handle(code) && response_size >= HEADER_SIZE + 4) {
        uint32_t handle = be32(response + HEADER_SIZE);
        forget_handle(c, handle);
        if (c->held_count < HELD_MAX)
            c->held[c->held_count++] = handle;
    }
}

static void flush_held(connection *c)
{
    while (c->held_count) {
        uint32_t handle = c->held[--c->held_count];
        uint8_t flush[] = { 0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x65, (uint8_t)(handle >> 24), (uint8_t)(handle >> 16),
                            (uint8_t)(handle >> 8), (uint8_t)handle };
        uint8_t response[RESPONSE_SIZE];
        size_t response_size;
        if (transact(c, flush, sizeof flush, response, &response_size))
            c->held_count = 0; /* nobody is there to flush anything */
    }
}

static void shut(connection *c)
{
    if (!c->is_open)
        return;
    flush_held(c);
    if (c->kind == SWTPM)
        hang_up(c);
    close_fd(c);
    if (c->loader) {
        sigset_t old;
        block_signals(&old);
        Tss2_TctiLdr_Finalize(&c->loader);
        unblock_signals(&old);
    }
    c->is_open = false;
}

/* ---- the idle timer: a thread that lives from the opening to the end of the connection, at most idle_ms after its last use */

static void *watch(void *argument)
{
    connection *c = argument;
    struct timespec now, end;
    pthread_mutex_lock(&c->lock);
    while (c->is_open) {
        bool lingers = c->kind == SWTPM && c->fd >= 0;
        end = later(c->last_use, lingers ? LINGER_MS : c->idle_ms);
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (is_before(now, end))
            pthread_cond_timedwait(&c->wake, &c->lock, &end);
        else if (lingers)
            hang_up(c);
        else
            shut(c);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static void start_timer(connection *c)
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

/* Called with the lock held; waits without it for a thread that found the connection shut and is about to end. */
static void join_timer(connection *c)
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

/* ---- for Python; each of these runs without the GIL */

/* A connection that is not open yet. `tcti` as for Tss2_TctiLdr_Initialize; after `idle_ms` without a command everything that
 * was left in the TPM is flushed and the connection closed (0: never, and no thread). NULL: no memory. */
static connection *connection_new(const char *tcti, int idle_ms)
{
    connection *c = calloc(1, sizeof *c);
    pthread_condattr_t attributes;
    if (!c || !(c->tcti = strdup(tcti))) {
        free(c);
        return NULL;
    }
    c->kind = !strcmp(tcti, "device") || !strncmp(tcti, "device:", 7) ? DEVICE
        : !strcmp(tcti, "swtpm") || !strncmp(tcti, "swtpm:", 6) ? SWTPM : LOADER;
    c->fd = -1;
    c->idle_ms = idle_ms;
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    return c;
}

/* Opens what is not open and gives the epoch. 0, an errno, or CONNECTION_REFUSED_IN_SETUID. */
static int connection_open(connection *c, uint64_t *epoch)
{
    int error = 0;
    pthread_mutex_lock(&c->lock);
    if (!c->is_open)
        join_timer(c);
    if (!c->is_open) {
        error = (c->kind == DEVICE ? open_device : c->kind == SWTPM ? open_swtpm : open_loader)(c);
        if (!error) {
            c->is_open = true;
            c->epoch++;
            c->held_count = 0;
            start_timer(c); /* has to wait for the lock */
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &c->last_use);
    *epoch = c->epoch;
    pthread_mutex_unlock(&c->lock);
    return error;
}

/* Sends one command and gives the response (at most RESPONSE_SIZE bytes). 0, an errno, or CONNECTION_STALE when the connection
 * is not the one of `epoch` any more: then nothing was sent. */
static int connection_transact(connection *c, uint64_t epoch, const uint8_t *command, size_t size,
                               uint8_t *response, size_t *response_size)
{
    int error = CONNECTION_STALE;
    pthread_mutex_lock(&c->lock);
    if (size < HEADER_SIZE)
        error = EINVAL;
    else if (c->is_open && c->epoch == epoch) {
        error = transact(c, command, size, response, response_size);
        if (!error)
            follow_handles(c, command, size, response, *response_size);
        clock_gettime(CLOCK_MONOTONIC, &c->last_use);
    }
    pthread_mutex_unlock(&c->lock);
    return error;
}

/* Says that a command ended a session of ours without FlushContext. */
static void connection_ended(connection *c, uint32_t handle)
{
    pthread_mutex_lock(&c->lock);
    forget_handle(c, handle);
    pthread_mutex_unlock(&c->lock);
}

/* Flushes what was left in the TPM, closes, and waits for the timer thread to end. */
static void connection_close(connection *c)
{
    pthread_mutex_lock(&c->lock);
    shut(c);
    join_timer(c);
    pthread_mutex_unlock(&c->lock);
}

static void connection_free(connection *c)
{
    connection_close(c);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    if (c->address)
        freeaddrinfo(c->address);
    free(c->tcti);
    free(c);
}

/* In a forked child: lets go of the parent's descriptors. The lock may be held by a thread that does not exist here, so
 * it is not taken; nothing is sent, flushed or finalised; the memory is left alone. */
static void connection_abandon(connection *c)
{
    close_fd(c);
    for (size_t i = 0; i < c->poll_count; i++)
        close(c->poll_fds[i]);
    c->poll_count = 0;
}
