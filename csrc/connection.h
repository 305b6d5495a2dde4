/* A connection to a TPM, and what its parts need of it and of each other. */

#define CONNECTION_STALE (-1)
#define CONNECTION_REFUSED_IN_SETUID (-2)
#define CONNECTION_WANTS_SOCKET (-3)
#define CONNECTION_REFUSED_IN_NEW_ROOT (-4)
#define RESPONSE_SIZE 4096
#define HEADER_SIZE 10 /* tag, size, command or response code: TPM 2.0 Part 1, clause 16 */
#define LINGER_MS 4 /* after a command, swtpm's socket is kept for the next one ... */
#define TURN_MS 50 /* ... but no longer than this in all, since nobody else is served meanwhile */
#define OPEN_MS 30000 /* for so long swtpm's socket may be served to others before us */
#define REST_MS 1000 /* a TPM may take minutes for an RSA key, but sends a response at once */
#define FLUSH_MS 2000 /* for so long a connection's end waits for the TPM */
#define LOOK_MS 100 /* who waits for the TPM looks so often whether he is still to */
#define EXIT_MS 2000 /* longer than this the end of the process does not wait for the TPM */
#define CONNECTIONS_MAX 64
#define HELD_MAX 16

enum kind { DEVICE, SWTPM, BROKER, LOADER };
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
    enum kind kind;
    char *tcti;
    descriptor own; /* device, broker: while open; swtpm: during commands in a row, see linger() */
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
    } loader;
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

static struct timespec from_now(int ms)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return later(now, ms);
}

/* How long it is to a time, rounded up; 0 if that has passed. */
static int ms_until(struct timespec time)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return is_before(now, time) ? (int)((time.tv_sec - now.tv_sec) * 1000 + (time.tv_nsec - now.tv_nsec + 999999L) / 1000000L) : 0;
}

static void block_signals(sigset_t *old)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, old);
}

static bool shut(connection *c, int ms); /* connection.c; the idle timer does it too */
static void drop(connection *c);
