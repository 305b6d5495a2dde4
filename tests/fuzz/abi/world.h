/* What a thread knows of the module: its sessions, objects and PINs, and what it has done; and what all processes of a run share. */

enum { SESSIONS = 6, OBJECTS = 48, OPERATIONS = 8, DATA_MOST = 2048, ARGUMENTS = 9, LAST_CALLS = 24, TRACKS = 64, TEXT = 400 };

typedef struct {
    atomic_int pid;
    atomic_long since; /* when the call that is under way began, in microseconds; 0 between calls */
    atomic_size_t number;
    char calls[LAST_CALLS][TEXT];
} track;

typedef struct {
    atomic_long counts[FUNCTIONS][CODES], microseconds[FUNCTIONS];
    atomic_long forks, wrong_pins;
    atomic_size_t tracks_used;
    track tracks[TRACKS];
} shared;

typedef struct {
    CK_OBJECT_HANDLE handle;
    CK_ULONG class, type;
    uint32_t id; /* both halves of a pair have the same */
} object;

typedef struct {
    const struct row *row;
    object key;
    uint8_t data[DATA_MOST], out[DATA_MOST];
    size_t length, out_length;
    bool there;
} work;

typedef struct {
    CK_SESSION_HANDLE handle;
    unsigned active;
    work begun[OPERATIONS];
    bool replays[OPERATIONS]; /* it is given what its counterpart made */
} session;

typedef struct {
    char user[64], so[64];
    bool has_user_pin;
    int wrong; /* that may still be given */
} pins;

/* The arguments of the call that is being made, and what has to be looked at after it. */
typedef struct {
    const function *f;
    CK_ULONG values[ARGUMENTS];
    size_t count;
    unsigned spoil; /* percent of arguments that are nonsense */
    const char *impossible; /* why CKR_OK would be a mistake */
    session *session;
    const struct row *row;
    object key, subject;
    bool replays;
    uint8_t *data, *out;
    size_t data_length, out_told, datas;
    CK_ULONG *out_length;
    CK_ULONG *handles[2];
    size_t handle_count;
    CK_USER_TYPE user;
    size_t pins_given;
    bool takes_pin, right_pin;
    char new_pin[64];
    CK_ATTRIBUTE *attributes, attributes_before[8];
    size_t attribute_count;
} call;

typedef struct {
    dice d;
    memory m;
    track *track;
    session sessions[SESSIONS];
    object objects[OBJECTS];
    size_t object_count;
    work made[OPERATIONS + 1]; /* the last output of each operation; the last one of all is C_WrapKey's */
    CK_SLOT_ID slot;
    bool alone; /* no other thread or process has a part in this run of the library */
    bool is_child;
    call c;
} world;

enum { WRAPPED = OPERATIONS };

static void *library;
typedef CK_RV (*entry)(CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG);
static entry entries[FUNCTIONS];
static shared *common;
static uint64_t seed;
static unsigned long round_number;
static pins token_pins = { "123456", "so-secret", true, 0 };
static pthread_mutex_t pin_lock = PTHREAD_MUTEX_INITIALIZER; /* held during calls that take a PIN */

static CK_RV enter(const function *f, const CK_ULONG v[ARGUMENTS])
{
    return entries[f - functions](v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8]);
}

/* A call that is not counted. */
#define RAW(name, ...) enter(function_of(name), (const CK_ULONG[ARGUMENTS]){ __VA_ARGS__ })
#define ADDRESS(pointer) ((CK_ULONG)(uintptr_t)(pointer))

static long now_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

static void print_track(const track *t)
{
    size_t end = t->number, first = end > LAST_CALLS ? end - LAST_CALLS : 0;
    for (size_t i = first; i < end; i++)
        fprintf(stderr, "    %s\n", t->calls[i % LAST_CALLS]);
}

/* The end of the round: something is wrong with the module. */
static void __attribute__((noreturn, format(printf, 2, 3))) fault(const world *w, const char *format, ...)
{
    va_list arguments;
    flockfile(stderr);
    fprintf(stderr, "FAULT in round %lu of seed %lu: ", round_number, (unsigned long)seed);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n  the last calls of this thread:\n");
    print_track(w->track);
    fflush(stderr);
    _exit(9);
}

static track *new_track(void)
{
    track *t = &common->tracks[atomic_fetch_add(&common->tracks_used, 1) % TRACKS];
    t->number = 0;
    t->since = 0;
    t->pid = getpid();
    return t;
}

/* An index for one operation. */
static size_t at(unsigned operation)
{
    return (size_t)__builtin_ctz(operation);
}

static object *object_with(world *w, CK_ULONG class, CK_ULONG type)
{
    size_t first = w->object_count ? below(&w->d, w->object_count) : 0;
    for (size_t i = 0; i < w->object_count; i++) {
        object *o = &w->objects[(first + i) % w->object_count];
        if (o->class == class && (type == CK_UNAVAILABLE_INFORMATION || o->type == type))
            return o;
    }
    return NULL;
}

static object *twin_of(world *w, const object *one)
{
    for (size_t i = 0; i < w->object_count; i++)
        if (w->objects[i].id == one->id && w->objects[i].type == one->type && w->objects[i].class != one->class)
            return &w->objects[i];
    return NULL;
}

static void forget_object(world *w, CK_OBJECT_HANDLE handle)
{
    for (size_t i = 0; i < w->object_count; i++)
        if (w->objects[i].handle == handle)
            w->objects[i--] = w->objects[--w->object_count];
}

static void forget_all(world *w)
{
    w->object_count = 0;
    memset(w->sessions, 0, sizeof w->sessions);
    for (size_t i = 0; i <= WRAPPED; i++)
        w->made[i].there = false;
}
