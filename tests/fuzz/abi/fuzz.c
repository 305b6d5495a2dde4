/* fuzz MODULE prepare: makes a token with keys.
 * fuzz MODULE round SEED ROUND CALLS STATE: calls functions of the module, all sorts of them with all sorts of arguments, in one thread or
 * several, in forked children too; the first one that does what it should not is told, with the calls before it. What was called and
 * answered is added up in the file STATE.
 * fuzz - table STATE: prints that. */
#include "../../host/host.h"

#include <sys/mman.h>
#include <time.h>

#include "dice.h"
#include "memory.h"
#include "standard.h"
#include "world.h"
#include "mechanisms.h"
#include "arguments.h"

enum { THREADS = 3, HANG_SECONDS = 120 };

static atomic_ulong shared_sessions[THREADS];
static atomic_bool over;

/* -- one call */

static void write_down(world *w)
{
    call *c = &w->c;
    track *t = w->track;
    char *text = t->calls[t->number % LAST_CALLS];
    int length = snprintf(text, TEXT, "%s(", c->f->name);
    for (size_t i = 0; i < c->count; i++)
        length += snprintf(text + length, (size_t)(TEXT - length), "%s%#lx", i ? ", " : "", c->values[i]);
    if (c->f->does && c->row)
        length += snprintf(text + length, (size_t)(TEXT - length), "; mechanism %#lx", c->row->type);
    for (size_t i = 0; i < c->attribute_count && length < TEXT - 60; i++)
        length += snprintf(text + length, (size_t)(TEXT - length), "; %#lx of %#lx", c->attributes[i].type, c->attributes[i].ulValueLen);
    snprintf(text + length, (size_t)(TEXT - length), ")");
    t->number++;
}

static void write_answer(world *w, CK_RV rv)
{
    char *text = w->track->calls[(w->track->number - 1) % LAST_CALLS];
    size_t length = strlen(text);
    size_t code = index_of(rv);
    snprintf(text + length, TEXT - length, " = %s", code < CODES ? codes[code].name : "?");
}

static void check_output(world *w, CK_RV rv)
{
    call *c = &w->c;
    bool in_bytes = strchr(c->f->takes, 'B');
    if (!c->out_length)
        return;
    if (rv == CKR_BUFFER_TOO_SMALL && (*c->out_length <= c->out_told || (in_bytes && !c->out)))
        fault(w, "CKR_BUFFER_TOO_SMALL, and the length that is needed is %lu", *c->out_length);
    if (rv != CKR_OK || !c->out)
        return;
    if (*c->out_length > c->out_told)
        fault(w, "CKR_OK with %lu bytes or elements, but there was room for %lu", *c->out_length, c->out_told);
    for (size_t i = *c->out_length; in_bytes && i < c->out_told && i < SMALL; i++)
        if (c->out[i] != FILL)
            fault(w, "byte %lu of the output is written, but its length is %lu", i, *c->out_length);
}

static void check_attributes(world *w, CK_RV rv)
{
    call *c = &w->c;
    for (size_t i = 0; i < c->attribute_count; i++) {
        const CK_ATTRIBUTE *before = &c->attributes_before[i], *after = &c->attributes[i];
        if (before->type != after->type || before->pValue != after->pValue)
            fault(w, "attribute %lu has another type or address", i);
        if (rv == CKR_OK && before->pValue && after->ulValueLen > before->ulValueLen)
            fault(w, "attribute %lu is longer than its buffer", i);
    }
}

static void check_pin(world *w, CK_RV rv)
{
    call *c = &w->c;
    if (!c->takes_pin)
        return;
    if ((rv == CKR_PIN_INCORRECT && c->right_pin) || rv == CKR_PIN_LOCKED)
        fault(w, "the PIN was right, or wrong PINs were few");
    if (rv == CKR_OK && !c->right_pin && strcmp(c->f->name, "C_InitToken"))
        fault(w, "a wrong PIN is taken");
}

static void check(world *w, CK_RV rv)
{
    call *c = &w->c;
    size_t code = index_of(rv);
    if (!may_answer(c->f, code))
        fault(w, "%s must not answer %#lx (%s)", c->f->name, rv, code < CODES ? codes[code].name : "?");
    common->counts[c->f - functions][code]++;
    const piece *p = spoilt_piece(&w->m);
    if (p)
        fault(w, "something is written outside of the outputs, near %p (%zu bytes)", (void *)p->start, p->size);
    if (rv == CKR_OK && c->impossible)
        fault(w, "CKR_OK, but %s", c->impossible);
    for (size_t i = 0; i < c->handle_count; i++)
        if (rv == CKR_OK && !*c->handles[i])
            fault(w, "CKR_OK without a handle");
    check_output(w, rv);
    check_attributes(w, rv);
    check_pin(w, rv);
}

/* -- what comes of a call */

static void learn(world *w, CK_OBJECT_HANDLE handle)
{
    CK_SESSION_HANDLE with = w->c.session ? w->c.session->handle : w->sessions[0].handle;
    object o = { handle, ~0ul, ~0ul, 0 };
    CK_ATTRIBUTE wanted[] = { { CKA_CLASS, &o.class, 8 }, { CKA_KEY_TYPE, &o.type, 8 }, { CKA_ID, &o.id, 4 } };
    forget_object(w, handle);
    RAW("C_GetAttributeValue", with, handle, ADDRESS(wanted), 3);
    if (w->object_count < OBJECTS)
        w->objects[w->object_count++] = o;
}

static void take_begin(world *w, CK_RV rv)
{
    call *c = &w->c;
    unsigned begins = c->f->begins;
    work *begun = &c->session->begun[at(begins)];
    if (rv == CKR_OPERATION_ACTIVE)
        c->session->active |= begins;
    if (rv != CKR_OK)
        return;
    if (begins != FIND && !c->values[1]) {
        c->session->active &= ~begins;
        return;
    }
    c->session->active |= begins;
    c->session->replays[at(begins)] = c->replays;
    if (c->replays)
        *begun = w->made[begins == VERIFY ? at(SIGN) : begins == DECRYPT ? at(ENCRYPT) : at(SIGN_RECOVER)];
    else
        *begun = (work){ .row = c->row, .key = c->key, .there = true };
}

static void keep_data(work *begun, const uint8_t *data, size_t length)
{
    begun->there = begun->there && data && begun->length + length <= DATA_MOST;
    if (begun->there)
        memcpy(begun->data + begun->length, data, length);
    begun->length += begun->there ? length : 0;
}

static void keep_result(world *w, const work *begun, size_t where)
{
    call *c = &w->c;
    work *made = &w->made[where];
    if (!begun->there || *c->out_length > DATA_MOST)
        return;
    *made = *begun;
    memcpy(made->out, c->out, *c->out_length);
    made->out_length = *c->out_length;
}

static void take_use(world *w, CK_RV rv)
{
    call *c = &w->c;
    bool only_length = strchr(c->f->takes, 'B') && (!c->out || rv == CKR_BUFFER_TOO_SMALL);
    bool ends = rv == CKR_OK ? !c->f->goes_on && !only_length : rv != CKR_BUFFER_TOO_SMALL && c->f->uses != FIND;
    unsigned makes = c->f->uses & (SIGN | ENCRYPT | SIGN_RECOVER);
    work *begun = &c->session->begun[makes ? at(makes) : 0];
    if (rv == CKR_OPERATION_NOT_INITIALIZED)
        ends = true;
    if (rv == CKR_OK && makes && !only_length && !c->session->replays[at(makes)]) {
        if (c->datas)
            keep_data(begun, c->data, c->data_length);
        if (!c->f->goes_on && c->out)
            keep_result(w, begun, at(makes));
    }
    if (ends)
        c->session->active &= ~c->f->uses;
}

static bool is_named(const world *w, const char *name)
{
    return !strcmp(w->c.f->name, name);
}

static void take_session(world *w)
{
    for (size_t i = 0; i < SESSIONS; i++)
        if (!w->sessions[i].handle) {
            w->sessions[i].handle = *w->c.handles[0];
            w->sessions[i].active = 0;
            return;
        }
    RAW("C_CloseSession", *w->c.handles[0]);
}

static void take_pins(world *w)
{
    call *c = &w->c;
    bool of_so = is_named(w, "C_InitToken") || (is_named(w, "C_SetPIN") && is_so_logged_in(w));
    if (is_named(w, "C_InitToken"))
        token_pins.has_user_pin = false;
    else if (c->new_pin[0])
        snprintf(of_so ? token_pins.so : token_pins.user, sizeof token_pins.so, "%s", c->new_pin);
    if (is_named(w, "C_InitPIN"))
        token_pins.has_user_pin = true;
}

static void take(world *w, CK_RV rv)
{
    call *c = &w->c;
    if (rv == CKR_CRYPTOKI_NOT_INITIALIZED)
        forget_all(w);
    if (c->session && c->f->begins)
        take_begin(w, rv);
    if (c->session && c->f->uses)
        take_use(w, rv);
    if (rv == CKR_SESSION_HANDLE_INVALID && c->session)
        *c->session = (session){ 0 };
    if (rv == CKR_OBJECT_HANDLE_INVALID || rv == CKR_KEY_HANDLE_INVALID)
        forget_object(w, c->subject.handle ? c->subject.handle : c->key.handle);
    if (rv != CKR_OK)
        return;
    if (is_named(w, "C_OpenSession"))
        take_session(w);
    else if (strchr(c->f->takes, 't') && c->handle_count)
        for (size_t i = 0; i < c->handle_count; i++)
            learn(w, *c->handles[i]);
    else if (is_named(w, "C_DestroyObject"))
        forget_object(w, c->subject.handle);
    else if (is_named(w, "C_CloseSession"))
        *c->session = (session){ 0 }, w->object_count = 0;
    else if (is_named(w, "C_Finalize") || is_named(w, "C_CloseAllSessions"))
        forget_all(w);
    else if (is_named(w, "C_Logout") || is_named(w, "C_InitToken"))
        w->object_count = 0;
    else if (is_named(w, "C_WrapKey") && c->out)
        keep_result(w, &(work){ .row = c->row, .key = c->key, .there = true }, WRAPPED);
    if (is_named(w, "C_InitToken") || is_named(w, "C_InitPIN") || is_named(w, "C_SetPIN"))
        take_pins(w);
    if (is_named(w, "C_SessionCancel"))
        c->session->active = 0;
}

/* A session for a call: one in which the operations go on that it uses or, if it begins one, others with which that can be
 * combined: clause 5.15. */
static session *session_for(world *w, const function *f)
{
    unsigned both = f->begins & (ENCRYPT | DECRYPT) ? DIGEST | SIGN | VERIFY
        : f->begins & (DIGEST | SIGN | VERIFY)      ? ENCRYPT | DECRYPT
                                                    : 0;
    unsigned liked = chance(&w->d, 70) ? both : 0;
    size_t first = below(&w->d, SESSIONS);
    session *open = NULL;
    for (size_t i = 0; i < SESSIONS; i++) {
        session *s = &w->sessions[(first + i) % SESSIONS];
        if (!s->handle)
            continue;
        if ((s->active & f->uses) == f->uses && !(s->active & f->begins) && (!liked || s->active & liked))
            return s;
        open = s;
    }
    return open;
}

static CK_RV make_call(world *w, const function *f, unsigned spoil)
{
    call *c = &w->c;
    bool with_pin = strchr(f->takes, 'p');
    memset(c, 0, sizeof *c);
    c->f = f;
    c->spoil = spoil;
    c->subject.id = (uint32_t)roll(&w->d) | 256;
    c->session = f->takes[0] == 's' ? session_for(w, f) : NULL;
    forget_pieces(&w->m);
    if (with_pin)
        pthread_mutex_lock(&pin_lock);
    for (const char *letter = f->takes; *letter; letter++)
        add_argument(w, *letter);
    remember(&w->m);
    write_down(w);
    long began = w->track->since = now_us();
    CK_RV rv = enter(f, c->values);
    common->microseconds[f - functions] += now_us() - began;
    w->track->since = 0;
    write_answer(w, rv);
    check(w, rv);
    take(w, rv);
    if (with_pin)
        pthread_mutex_unlock(&pin_lock);
    return rv;
}

static CK_RV good_call(world *w, const char *name)
{
    return make_call(w, function_of(name), 0);
}

/* -- what is called */

static void look_for_objects(world *w)
{
    CK_SESSION_HANDLE with = w->sessions[0].handle;
    CK_OBJECT_HANDLE found[OBJECTS];
    CK_ULONG count = 0;
    w->c.session = NULL;
    RAW("C_FindObjectsFinal", with);
    if (RAW("C_FindObjectsInit", with, 0, 0) || RAW("C_FindObjects", with, ADDRESS(found), OBJECTS, ADDRESS(&count)))
        return;
    RAW("C_FindObjectsFinal", with);
    w->sessions[0].active &= ~(unsigned)FIND;
    w->object_count = 0;
    for (CK_ULONG i = 0; i < count; i++)
        learn(w, found[i]);
}

static void destroy_most(world *w)
{
    for (size_t i = w->object_count; i-- > 16;)
        RAW("C_DestroyObject", w->sessions[0].handle, w->objects[i].handle);
    look_for_objects(w);
}

static void log_in_again(world *w)
{
    CK_SESSION_INFO info = { 0 };
    w->c.session = &w->sessions[0];
    if (RAW("C_GetSessionInfo", w->sessions[0].handle, ADDRESS(&info)) || info.state == CKS_RW_USER_FUNCTIONS || info.state == CKS_RO_USER_FUNCTIONS)
        return;
    if (info.state == CKS_RW_SO_FUNCTIONS) {
        if (!token_pins.has_user_pin)
            good_call(w, "C_InitPIN");
        if (chance(&w->d, 80))
            good_call(w, "C_Logout");
        return;
    }
    good_call(w, chance(&w->d, 70) ? "C_Login" : "C_LoginUser");
    if (w->alone && !token_pins.has_user_pin)
        for (int i = 0; i < 4 && !is_so_logged_in(w); i++)
            good_call(w, "C_Login");
}

/* Have a run, sessions, a login and keys, whatever has ended them. */
static void make_usable(world *w)
{
    CK_SLOT_ID slots[8];
    CK_ULONG count = 8;
    if (RAW("C_GetSlotList", 1, ADDRESS(slots), ADDRESS(&count))) {
        good_call(w, "C_Initialize");
        return;
    }
    w->slot = slots[0];
    for (size_t i = 0; i < SESSIONS; i++) {
        CK_SESSION_INFO info;
        if (w->sessions[i].handle && RAW("C_GetSessionInfo", w->sessions[i].handle, ADDRESS(&info)))
            w->sessions[i] = (session){ 0 };
        if (!w->sessions[i].handle && i < 3)
            good_call(w, "C_OpenSession");
    }
    if (!w->sessions[0].handle)
        return;
    log_in_again(w);
    if (!w->alone)
        w->sessions[SESSIONS - 1].handle = PICK(&w->d, shared_sessions);
    if (w->object_count < 8 || chance(&w->d, 5))
        look_for_objects(w);
    if (w->object_count > OBJECTS * 3 / 4)
        destroy_most(w);
    if (!object_with(w, CKO_PRIVATE_KEY, CKK_EC))
        good_call(w, "C_GenerateKeyPair");
    if (w->object_count < 12)
        good_call(w, chance(&w->d, 50) ? "C_GenerateKey" : "C_CreateObject");
}

/* A function that goes on with what a session has begun, with two operations at once if there are; NULL if nothing is. */
static const function *choose_use(world *w)
{
    const session *s = &w->sessions[below(&w->d, SESSIONS)];
    bool both = chance(&w->d, 50);
    for (size_t i = 0, first = below(&w->d, FUNCTIONS); i < 2 * FUNCTIONS && s->handle; i++) {
        const function *f = &functions[(first + i) % FUNCTIONS];
        if (f->uses && (f->uses & s->active) == f->uses && (!both || i > FUNCTIONS || f->uses & (f->uses - 1)))
            return f;
    }
    return NULL;
}

static const function *choose_function(world *w)
{
    const function *use = chance(&w->d, 80) ? choose_use(w) : NULL;
    if (use)
        return use;
    for (;;) {
        const function *f = &PICK(&w->d, functions);
        bool of_pin = strchr(f->takes, 'p') && f->name[2] != 'L';
        if (below(&w->d, 60) < f->weight && (w->alone || !of_pin) && (!w->is_child || strcmp(f->name, "C_Initialize")))
            return f;
    }
}

static void step(world *w)
{
    const function *f = choose_function(w);
    size_t what = below(&w->d, 100);
    unsigned spoil = what < 55 ? 0 : what < 85 ? 8 : 35;
    if (!strcmp(f->name, "C_InitToken") && chance(&w->d, 30))
        good_call(w, "C_CloseAllSessions");
    make_call(w, f, spoil);
}

static void fuzz(world *w, unsigned long calls)
{
    for (unsigned long i = 0; i < calls; i++) {
        if (i % 8 == 0)
            make_usable(w);
        step(w);
    }
}

/* -- forks */

static pid_t beside; /* a child that the parent does not wait for: one, since a TPM has room for few */
static pthread_mutex_t beside_lock = PTHREAD_MUTEX_INITIALIZER;

static void __attribute__((noreturn)) end_somehow(world *w)
{
    if (chance(&w->d, 50)) {
        CK_RV rv = RAW("C_Finalize", 0);
        if (rv != CKR_OK && rv != CKR_CRYPTOKI_NOT_INITIALIZED)
            fault(w, "C_Finalize answers %#lx", rv);
    }
    exit(0);
}

static void __attribute__((noreturn)) be_child(world *w)
{
    CK_INFO info;
    pthread_mutex_unlock(&pin_lock);
    w->track = new_track();
    w->is_child = true;
    w->alone = false;
    token_pins.wrong = 0;
    memset(shared_sessions, 0, sizeof shared_sessions);
    forget_all(w);
    alarm(3 * HANG_SECONDS);
    if (RAW("C_GetInfo", ADDRESS(&info)) != CKR_CRYPTOKI_NOT_INITIALIZED)
        fault(w, "a child is initialised");
    if (chance(&w->d, 30)) /* it has not used the TPM, where nothing would be flushed after this */
        _exit(0);
    fuzz(w, 10 + below(&w->d, 60));
    end_somehow(w);
}

static void wait_for(const world *w, pid_t child)
{
    int status;
    if (waitpid(child, &status, 0) != child || status)
        fault(w, "the child %d ended with status %#x", child, (unsigned)status);
}

/* Waits for the child that goes on beside this process, if there is one. */
static void reap(const world *w)
{
    pthread_mutex_lock(&beside_lock);
    pid_t child = beside;
    beside = 0;
    pthread_mutex_unlock(&beside_lock);
    if (child)
        wait_for(w, child);
}

/* A child that goes on by itself; the parent waits for it, or goes on as well. */
static void make_child(world *w)
{
    pthread_mutex_lock(&pin_lock);
    uint64_t childs = roll(&w->d);
    pid_t child = fork();
    if (child == 0) {
        w->d.state = childs;
        be_child(w);
    }
    pthread_mutex_unlock(&pin_lock);
    if (child < 0)
        fault(w, "fork: %s", strerror(errno));
    common->forks++;
    if (!w->alone && chance(&w->d, 50)) { /* a process that is alone changes PINs */
        reap(w);
        pthread_mutex_lock(&beside_lock);
        pid_t other = beside;
        beside = child;
        pthread_mutex_unlock(&beside_lock);
        child = other;
    }
    if (child)
        wait_for(w, child);
}

/* -- rounds */

static world *new_world(uint64_t state, bool alone)
{
    world *w = calloc(1, sizeof *w);
    if (!w)
        _exit(3);
    w->d.state = state;
    w->alone = alone;
    w->track = new_track();
    make_memory(&w->m);
    return w;
}

static void work_through(world *w, unsigned long calls)
{
    for (unsigned long done = 0; done < calls;) {
        unsigned long some = 50 + below(&w->d, 500);
        if (some > calls - done)
            some = calls - done;
        fuzz(w, some);
        done += some;
        make_child(w);
    }
}

typedef struct { uint64_t state; unsigned long calls; int index; } share;

static void *be_thread(void *argument)
{
    share *mine = argument;
    world *w = new_world(mine->state, false);
    make_usable(w);
    shared_sessions[mine->index] = w->sessions[1].handle;
    work_through(w, mine->calls);
    return NULL;
}

/* Waits for slots' events as long as there is a run: this must end with it. */
static void *be_waiter(void *argument)
{
    (void)argument;
    CK_SLOT_ID slot;
    while (!over) {
        CK_RV rv = RAW("C_WaitForSlotEvent", 0, ADDRESS(&slot), 0);
        if (rv != CKR_CRYPTOKI_NOT_INITIALIZED)
            _exit(3);
        usleep(1000);
    }
    return NULL;
}

static void use_threads(world *w, unsigned long calls)
{
    pthread_t threads[THREADS], waiter;
    share shares[THREADS];
    make_usable(w);
    if (pthread_create(&waiter, NULL, be_waiter, NULL))
        _exit(3);
    for (int i = 0; i < THREADS; i++) {
        shares[i] = (share){ roll(&w->d), calls / THREADS, i };
        if (pthread_create(&threads[i], NULL, be_thread, &shares[i]))
            _exit(3);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    over = true;
    reap(w);
    if (chance(&w->d, 50)) {
        RAW("C_Finalize", 0);
        pthread_join(waiter, NULL);
    }
}

static void ask_what_mechanisms_do(CK_SLOT_ID slot)
{
    for (size_t i = 0; i < ROWS; i++) {
        CK_MECHANISM_INFO info = { 0 };
        if (RAW("C_GetMechanismInfo", slot, rows[i].type, ADDRESS(&info)) == CKR_OK)
            rows[i].does = info.flags;
    }
}

static void load_entries(const char *path)
{
    library = open_module(path, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < FUNCTIONS; i++)
        if (!(entries[i] = (entry)dlsym(library, functions[i].name)))
            say("%s is not there", functions[i].name), _exit(2);
}

static void __attribute__((noreturn)) be_worker(const char *path, unsigned long calls)
{
    dice d = { seed * 1000003 + round_number };
    roll(&d);
    bool alone = chance(&d, 60);
    load_entries(path);
    token_pins.wrong = 3;
    world *w = new_world(roll(&d), alone);
    make_usable(w);
    make_usable(w);
    ask_what_mechanisms_do(w->slot);
    if (alone)
        work_through(w, calls);
    else
        use_threads(w, calls);
    end_somehow(w);
}

static void print_tracks(void)
{
    for (size_t i = 0; i < TRACKS; i++) {
        const track *t = &common->tracks[i];
        if (t->pid && t->since) {
            fprintf(stderr, "  process %d was in the last of these calls:\n", t->pid);
            print_track(t);
        }
    }
}

static bool is_hanging(void)
{
    long now = now_us();
    for (size_t i = 0; i < TRACKS; i++) {
        long since = common->tracks[i].since;
        if (since && now - since > HANG_SECONDS * 1000000l && kill(common->tracks[i].pid, 0) == 0)
            return true;
    }
    return false;
}

/* Waits for the process that makes the calls; 0 if all was well. */
static int watch(pid_t worker)
{
    int status = 0;
    while (waitpid(worker, &status, WNOHANG) == 0) {
        usleep(2000);
        if (is_hanging()) {
            fprintf(stderr, "FAULT in round %lu of seed %lu: a call does not end\n", round_number, (unsigned long)seed);
            print_tracks();
            kill(worker, SIGABRT);
            return 9;
        }
    }
    if (WIFSIGNALED(status)) {
        fprintf(stderr, "FAULT in round %lu of seed %lu: signal %d\n", round_number, (unsigned long)seed, WTERMSIG(status));
        print_tracks();
        return 9;
    }
    return WEXITSTATUS(status);
}

static void open_state(const char *path)
{
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof *common))
        _exit(3);
    common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (common == MAP_FAILED)
        _exit(3);
}

static int play(char **argv)
{
    seed = strtoul(argv[3], NULL, 10);
    round_number = strtoul(argv[4], NULL, 10);
    open_state(argv[6]);
    memset(common->tracks, 0, sizeof common->tracks);
    common->tracks_used = 0;
    pid_t worker = fork();
    if (worker == 0)
        be_worker(argv[1], strtoul(argv[5], NULL, 10));
    return watch(worker);
}

static void print_table(const char *path)
{
    open_state(path);
    printf("fork can 0 OK=%ld\nwrong-PIN can 0 OK=%ld\n", common->forks, common->wrong_pins);
    for (size_t i = 0; i < FUNCTIONS; i++) {
        printf("%s %s %ld", functions[i].name, functions[i].never ? "never" : "can", common->microseconds[i]);
        for (size_t j = 0; j < CODES; j++)
            if (common->counts[i][j])
                printf(" %s=%ld", codes[j].name, common->counts[i][j]);
        printf("\n");
    }
}

/* -- the token */

static void make_pair(CK_FUNCTION_LIST *list, CK_SESSION_HANDLE s, CK_MECHANISM_TYPE type, CK_ATTRIBUTE *size, uint32_t id)
{
    CK_BBOOL true_ = CK_TRUE;
    CK_MECHANISM mechanism = { type, NULL, 0 };
    CK_OBJECT_HANDLE made[2];
    CK_BBOOL rsa = type == CKM_RSA_PKCS_KEY_PAIR_GEN, ec = !rsa;
    CK_ATTRIBUTE public[] = { *size, { CKA_ID, &id, sizeof id }, { CKA_TOKEN, &true_, 1 }, { CKA_VERIFY_RECOVER, &rsa, 1 },
                              { CKA_ENCRYPT, &rsa, 1 }, { CKA_WRAP, &rsa, 1 } };
    CK_ATTRIBUTE private[] = { { CKA_ID, &id, sizeof id }, { CKA_TOKEN, &true_, 1 }, { CKA_SIGN_RECOVER, &rsa, 1 },
                               { CKA_DECRYPT, &rsa, 1 }, { CKA_UNWRAP, &rsa, 1 }, { CKA_DERIVE, &ec, 1 } };
    must(list->C_GenerateKeyPair(s, &mechanism, public, rsa ? 6 : 3, private, 6, &made[0], &made[1]));
}

static int prepare(const char *path)
{
    CK_FUNCTION_LIST *list = load(path);
    CK_SLOT_ID slot;
    CK_ULONG count = 1, bits = 2048;
    CK_SESSION_HANDLE s;
    must(list->C_Initialize(NULL));
    must(list->C_GetSlotList(CK_TRUE, &slot, &count));
    must(list->C_InitToken(slot, (CK_BYTE *)token_pins.so, strlen(token_pins.so), (CK_BYTE *)"token                           "));
    must(list->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &s));
    must(list->C_Login(s, CKU_SO, (CK_BYTE *)token_pins.so, strlen(token_pins.so)));
    must(list->C_InitPIN(s, (CK_BYTE *)PIN, strlen(PIN)));
    must(list->C_Logout(s));
    must(list->C_Login(s, CKU_USER, (CK_BYTE *)PIN, strlen(PIN)));
    make_pair(list, s, CKM_EC_KEY_PAIR_GEN, &(CK_ATTRIBUTE){ CKA_EC_PARAMS, (void *)p256, sizeof p256 }, 1);
    make_pair(list, s, CKM_RSA_PKCS_KEY_PAIR_GEN, &(CK_ATTRIBUTE){ CKA_MODULUS_BITS, &bits, sizeof bits }, 2);
    must(list->C_Finalize(NULL));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 7 && !strcmp(argv[2], "round"))
        return play(argv);
    if (argc == 4 && !strcmp(argv[2], "table"))
        return print_table(argv[3]), 0;
    return prepare(argv[1]);
}
