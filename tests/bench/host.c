/* host: a program that uses any PKCS#11 module and says, in a line of JSON for each command, how long that took.
 *
 *   host MODULE                    commands on stdin, one a line; see `commands` below
 *   host MODULE first KIND NAME    from the start of a process to its first signature, step by step
 *
 * KIND is p256, p384 or rsa; NAME is both CKA_ID and CKA_LABEL of a key. Times are in microseconds. */
#include "steps.h"

#include <netinet/in.h>
#include <sys/socket.h>

#define SO_PIN "so-secret"
#define WORDS 6
#define MOST_KEYS 64

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The times of one thing done several times, and how often it failed. */
static void answer(double *times, size_t count, size_t errors)
{
    double total = 0;
    for (size_t i = 0; i < count; i++)
        total += times[i];
    qsort(times, count, sizeof *times, by_size);
    printf("{\"low\": %.2f, \"total\": %.1f, \"count\": %zu, \"errors\": %zu}\n",
           times[count / 4], total, count, errors);
}

/* ---- commands */

static void do_step(char **words)
{
    static const struct { const char *name; void (*step)(void); } steps[] = {
        { "load", step_load }, { "initialize", step_initialize }, { "slots", step_slots },
        { "session", step_session }, { "login", step_login }, { "close", step_close },
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (!strcmp(steps[i].name, words[0]))
            printf("{\"time\": %.1f}\n", timed(steps[i].step));
}

/* init: makes a token with both PINs in the first slot */
static void do_init(char **words)
{
    (void)words;
    CK_UTF8CHAR label[33] = "bench                           ";
    double start = now();
    step_slots();
    must(module->C_InitToken(slot, (CK_BYTE *)SO_PIN, strlen(SO_PIN), label));
    step_slots();
    must(module->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    must(module->C_Login(session, CKU_SO, (CK_BYTE *)SO_PIN, strlen(SO_PIN)));
    must(module->C_InitPIN(session, (CK_BYTE *)PIN, strlen(PIN)));
    must(module->C_Logout(session));
    must(module->C_CloseSession(session));
    printf("{\"time\": %.1f}\n", now() - start);
}

/* generate KIND NAME */
static void do_generate(char **words)
{
    static CK_SESSION_HANDLE writer;
    const kind *how = kind_of(words[1]);
    CK_BBOOL yes = CK_TRUE;
    CK_ULONG bits = 2048;
    CK_ATTRIBUTE id = { CKA_ID, words[2], strlen(words[2]) }, label = { CKA_LABEL, words[2], strlen(words[2]) };
    CK_ATTRIBUTE token = { CKA_TOKEN, &yes, 1 };
    CK_ATTRIBUTE what = { CKA_EC_PARAMS, (void *)how->params, how->params_size };
    if (!how->params)
        what = (CK_ATTRIBUTE){ CKA_MODULUS_BITS, &bits, sizeof bits };
    CK_ATTRIBUTE public[] = { token, id, label, { CKA_VERIFY, &yes, 1 }, what };
    CK_ATTRIBUTE private[] = { token, id, label, { CKA_SIGN, &yes, 1 }, { CKA_PRIVATE, &yes, 1 } };
    CK_MECHANISM mechanism = { how->generate, NULL, 0 };
    CK_OBJECT_HANDLE pair[2];
    if (!writer)
        must(module->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &writer));
    double start = now();
    must(module->C_GenerateKeyPair(writer, &mechanism, public, 5, private, 5, &pair[0], &pair[1]));
    printf("{\"time\": %.1f}\n", now() - start);
}

/* sign KIND NAME COUNT */
static void do_sign(char **words)
{
    const kind *how = kind_of(words[1]);
    size_t count = strtoul(words[3], NULL, 10), errors = 0;
    CK_OBJECT_HANDLE key = find_one(session, words[2]);
    double *times = calloc(count, sizeof *times);
    for (size_t i = 0; i < count; i++) {
        double start = now();
        errors += !sign_once(session, how, key);
        times[i] = now() - start;
    }
    answer(times, count, errors);
    free(times);
}

/* find id|label KEYS COUNT: searches for some of k00000, k00001, ... */
static void do_find(char **words)
{
    CK_ATTRIBUTE_TYPE type = strcmp(words[1], "id") ? CKA_LABEL : CKA_ID;
    unsigned long keys = strtoul(words[2], NULL, 10), next = 1;
    size_t count = strtoul(words[3], NULL, 10), errors = 0;
    double *times = calloc(count, sizeof *times);
    for (size_t i = 0; i < count; i++) {
        char name[32];
        CK_OBJECT_HANDLE key;
        next = next * 1103515245 + 12345;
        snprintf(name, sizeof name, "k%05lu", (next >> 16) % keys);
        double start = now();
        errors += find(session, type, name, &key) != 1;
        times[i] = now() - start;
    }
    answer(times, count, errors);
    free(times);
}

static bool call_session_info(void)
{
    CK_SESSION_INFO info;
    return module->C_GetSessionInfo(session, &info) == CKR_OK;
}

static bool call_digest(void)
{
    CK_MECHANISM mechanism = { CKM_SHA256, NULL, 0 };
    CK_BYTE data[32] = { 0 }, digest[32];
    CK_ULONG size = sizeof digest;
    return module->C_DigestInit(session, &mechanism) == CKR_OK
        && module->C_Digest(session, data, sizeof data, digest, &size) == CKR_OK;
}

static bool call_attribute(void)
{
    static CK_OBJECT_HANDLE key;
    CK_KEY_TYPE type;
    CK_ATTRIBUTE wanted = { CKA_KEY_TYPE, &type, sizeof type };
    if (!key)
        key = find_one(session, "k00000");
    return module->C_GetAttributeValue(session, key, &wanted, 1) == CKR_OK;
}

static bool call_mechanism_info(void)
{
    CK_MECHANISM_INFO info;
    return module->C_GetMechanismInfo(slot, CKM_ECDSA, &info) == CKR_OK;
}

static bool call_mechanism_list(void)
{
    CK_MECHANISM_TYPE types[128];
    CK_ULONG count = 128;
    return module->C_GetMechanismList(slot, types, &count) == CKR_OK;
}

static bool call_slot_list(void)
{
    CK_SLOT_ID slots[16];
    CK_ULONG count = 16;
    return module->C_GetSlotList(CK_TRUE, slots, &count) == CKR_OK;
}

static bool call_token_info(void)
{
    CK_TOKEN_INFO info;
    return module->C_GetTokenInfo(slot, &info) == CKR_OK;
}

static bool call_random(void)
{
    CK_BYTE bytes[32];
    return module->C_GenerateRandom(session, bytes, sizeof bytes) == CKR_OK;
}

/* call WHICH COUNT: short functions, all but random without the TPM */
static void do_call(char **words)
{
    static const struct { const char *name; bool (*call)(void); } calls[] = {
        { "session-info", call_session_info }, { "digest", call_digest }, { "attribute", call_attribute },
        { "mechanism-info", call_mechanism_info }, { "mechanism-list", call_mechanism_list },
        { "slot-list", call_slot_list }, { "token-info", call_token_info }, { "random", call_random },
    };
    size_t count = strtoul(words[2], NULL, 10), errors = 0;
    double *times = calloc(count, sizeof *times);
    for (size_t which = 0; which < sizeof calls / sizeof *calls; which++)
        for (size_t i = 0; i < count && !strcmp(calls[which].name, words[1]); i++) {
            double start = now();
            errors += !calls[which].call();
            times[i] = now() - start;
        }
    answer(times, count, errors);
    free(times);
}

/* One TPM command to a swtpm's socket in a connection of its own, as every client has it; the TPM says that all is well. */
static bool transact(const struct sockaddr_in *address, const CK_BYTE *request, size_t size)
{
    CK_BYTE response[4096] = { 0 };
    int tpm = socket(AF_INET, SOCK_STREAM, 0);
    bool good = connect(tpm, (const struct sockaddr *)address, sizeof *address) == 0
        && send(tpm, request, size, MSG_NOSIGNAL) == (ssize_t)size
        && recv(tpm, response, sizeof response, 0) > 10 && !memcmp(response + 6, "\0\0\0\0", 4);
    close(tpm);
    return good;
}

/* raw PORT REQUEST COUNT: bare TPM commands without any module; the request is in hexadecimal */
static void do_raw(char **words)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    CK_BYTE request[1024];
    size_t size = strlen(words[2]) / 2, count = strtoul(words[3], NULL, 10), errors = 0;
    address.sin_port = htons((uint16_t)strtoul(words[1], NULL, 10));
    for (size_t i = 0; i < size && i < sizeof request; i++)
        sscanf(words[2] + 2 * i, "%2hhx", &request[i]);
    double *times = calloc(count, sizeof *times);
    for (size_t i = 0; i < count; i++) {
        double start = now();
        errors += !transact(&address, request, size);
        times[i] = now() - start;
    }
    answer(times, count, errors);
    free(times);
}

typedef struct {
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    size_t count, errors;
    pthread_barrier_t *start;
} worker;

static void *work(void *argument)
{
    worker *own = argument;
    pthread_barrier_wait(own->start);
    for (size_t i = 0; i < own->count; i++)
        own->errors += !sign_once(own->session, &kinds[0], own->key);
    return NULL;
}

static void answer_throughput(double total, size_t count, size_t errors)
{
    printf("{\"total\": %.1f, \"count\": %zu, \"errors\": %zu, \"rv\": %lu}\n", total, count, errors, last_error);
}

/* threads THREADS COUNT: COUNT signatures in each thread, which has a session and a key of its own */
static void do_threads(char **words)
{
    unsigned int threads = (unsigned int)strtoul(words[1], NULL, 10);
    size_t count = strtoul(words[2], NULL, 10), errors = 0;
    worker workers[MOST_KEYS];
    pthread_t ids[MOST_KEYS];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, threads + 1);
    for (unsigned int i = 0; i < threads; i++) {
        char name[32];
        workers[i] = (worker){ .count = count, .start = &start };
        must(module->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &workers[i].session));
        snprintf(name, sizeof name, "k%05u", i);
        workers[i].key = find_one(workers[i].session, name);
        pthread_create(&ids[i], NULL, work, &workers[i]);
    }
    double begun = now();
    pthread_barrier_wait(&start);
    for (unsigned int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        errors += workers[i].errors;
    }
    answer_throughput(now() - begun, threads * count, errors);
}

/* turn KEYS ROUNDS: one thread signs with k00000, k00001, ... in turn */
static void do_turn(char **words)
{
    size_t keys = strtoul(words[1], NULL, 10), rounds = strtoul(words[2], NULL, 10), errors = 0;
    CK_OBJECT_HANDLE handles[MOST_KEYS];
    for (size_t i = 0; i < keys; i++) {
        char name[32];
        snprintf(name, sizeof name, "k%05zu", i);
        handles[i] = find_one(session, name);
    }
    double begun = now();
    for (size_t i = 0; i < rounds * keys; i++)
        errors += !sign_once(session, &kinds[0], handles[i % keys]);
    answer_throughput(now() - begun, rounds * keys, errors);
}

/* Resident memory in KiB. */
static long memory(void)
{
    char line[256];
    long size = -1;
    FILE *status = fopen("/proc/self/status", "re");
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "VmRSS: %ld", &size);
    if (status)
        fclose(status);
    return size;
}

static void do_memory(char **words)
{
    (void)words;
    printf("{\"memory\": %ld}\n", memory());
}

/* ---- first: this process starts itself anew and takes the time from before that */

static int start_again(char **arguments)
{
    char started[32];
    pid_t child;
    int status = 0;
    char *again[] = { arguments[0], arguments[1], "first", arguments[3], arguments[4], started, NULL };
    snprintf(started, sizeof started, "%.1f", now());
    if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, again, environ) || waitpid(child, &status, 0) != child)
        return 3;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 3;
}

static int first(const char *how, const char *name, const char *started)
{
    double from = strtod(started, NULL), load_time = timed(step_load), before = microseconds(CLOCK_PROCESS_CPUTIME_ID);
    double initialize = timed(step_initialize), work = microseconds(CLOCK_PROCESS_CPUTIME_ID) - before;
    double slots = timed(step_slots), opened = timed(step_session), login = timed(step_login), start = now();
    CK_OBJECT_HANDLE key = find_one(session, name);
    double found = now();
    bool good = sign_once(session, kind_of(how), key);
    double end = now();
    long size = memory();
    step_close();
    printf("{\"load\": %.1f, \"initialize\": %.1f, \"slots\": %.1f, \"session\": %.1f, \"login\": %.1f, \"find\": %.1f, "
           "\"sign\": %.1f, \"total\": %.1f, \"close\": %.1f, \"memory\": %ld, \"errors\": %d, \"work\": %.1f}\n",
           load_time, initialize, slots, opened, login, found - start, end - found, end - from, now() - end, size, !good,
           work);
    return 0;
}

static void obey(char **words)
{
    static const struct { const char *name; void (*run)(char **); int words; } commands[] = {
        { "load", do_step, 1 }, { "initialize", do_step, 1 }, { "slots", do_step, 1 }, { "session", do_step, 1 },
        { "login", do_step, 1 }, { "close", do_step, 1 }, { "init", do_init, 1 }, { "generate", do_generate, 3 },
        { "sign", do_sign, 4 }, { "find", do_find, 4 }, { "call", do_call, 3 }, { "threads", do_threads, 3 },
        { "turn", do_turn, 3 }, { "memory", do_memory, 1 }, { "raw", do_raw, 4 },
    };
    int count = 0;
    while (count < WORDS && words[count])
        count++;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(commands[i].name, words[0]) && commands[i].words == count) {
            commands[i].run(words);
            fflush(stdout);
            return;
        }
    say("no such command: %s", words[0]);
    _exit(2);
}

int main(int count, char **arguments)
{
    char line[2048];
    if (count < 2)
        return 2;
    path = arguments[1];
    if (count == 5)
        return start_again(arguments);
    if (count == 6)
        return first(arguments[3], arguments[4], arguments[5]);
    while (fgets(line, sizeof line, stdin)) {
        char *words[WORDS + 1] = { NULL }, *rest = line;
        for (int i = 0; i < WORDS && (words[i] = strtok(rest, " \n")); i++)
            rest = NULL;
        if (words[0])
            obey(words);
    }
    return 0;
}
