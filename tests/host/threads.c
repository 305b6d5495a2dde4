/* threads MODULE WAY: what one thread does must not hold up the others, and leaves nothing in the TPM. A host that hangs ends. */
#include "host.h"
#include <time.h>

enum { VICTIMS = 20, RUNS = 24, SIGNERS = 4, SESSIONS = 16000, LOGOUTS = 3 };

static CK_FUNCTION_LIST *list;
static atomic_long signatures;

static void *sign_on(void *argument)
{
    CK_BYTE signature[64];
    signer mine = *(signer *)argument;
    while (sign(mine, signature) == CKR_OK) {
        signatures++;
        pthread_testcancel();
    }
    return NULL;
}

static void wait_for(long more)
{
    for (long wanted = signatures + more; signatures < wanted;)
        usleep(100);
}

static void cancelled(void)
{
    signer mine, all[2];
    pthread_t victim, beside;
    CK_BYTE signature[64];
    void *how;
    must(list->C_Initialize(NULL));
    mine = log_in(list);
    for (int i = 0; i < 2; i++)
        all[i] = log_in(list);
    pthread_create(&beside, NULL, sign_on, &all[1]);
    for (int i = 0; i < VICTIMS; i++) {
        pthread_create(&victim, NULL, sign_on, &all[0]);
        wait_for(4 + i % 3);
        pthread_cancel(victim);
        pthread_join(victim, &how);
        if (how != PTHREAD_CANCELED)
            say("not cancelled");
        must(sign(mine, signature));
        wait_for(2);
    }
    must(list->C_Finalize(NULL));
    pthread_join(beside, &how);
}

static void finalized(void)
{
    for (int run = 0; run < RUNS; run++) {
        signer all[SIGNERS];
        pthread_t threads[SIGNERS];
        must(list->C_Initialize(NULL));
        for (int i = 0; i < SIGNERS; i++)
            all[i] = log_in(list);
        for (int i = 0; i < SIGNERS; i++)
            pthread_create(&threads[i], NULL, sign_on, &all[i]);
        wait_for(4 + run % 5);
        must(list->C_Finalize(NULL));
        for (int i = 0; i < SIGNERS; i++)
            pthread_join(threads[i], NULL);
    }
}

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void open_many(CK_SLOT_ID slot, CK_SESSION_HANDLE *sessions)
{
    for (int i = 0; i < SESSIONS; i++)
        must(list->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &sessions[i]));
}

static void closed(void)
{
    static CK_SESSION_HANDLE sessions[SESSIONS];
    must(list->C_Initialize(NULL));
    signer one = log_in(list);
    CK_SLOT_ID slot = slot_of_test(list);
    long start = now();
    open_many(slot, sessions);
    say("open %ld", now() - start);
    start = now();
    must(list->C_CloseAllSessions(slot));
    say("all %ld", now() - start);
    if (list->C_CloseSession(one.session) != CKR_SESSION_HANDLE_INVALID)
        say("a session is left");
    log_in(list);
    open_many(slot, sessions);
    start = now();
    for (int i = 0; i < SESSIONS; i++)
        must(list->C_CloseSession(sessions[i]));
    say("each %ld", now() - start);
    must(list->C_Finalize(NULL));
}

static CK_SESSION_HANDLE busy;

/* Keeps the token's lock for a while. */
static void *make_pair(void *argument)
{
    CK_MECHANISM mechanism = { CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0 };
    CK_ULONG bits = 2048;
    CK_ATTRIBUTE size = { CKA_MODULUS_BITS, &bits, sizeof bits };
    CK_OBJECT_HANDLE made[2];
    signatures++;
    list->C_GenerateKeyPair(busy, &mechanism, &size, 1, NULL, 0, &made[0], &made[1]);
    return argument;
}

static void *log_out(void *argument)
{
    signatures++;
    must(list->C_Logout(busy));
    return argument;
}

/* Runs something in a thread, and gives it the time to come as far as to a lock. */
static pthread_t start(void *(*work)(void *))
{
    pthread_t thread;
    long before = signatures;
    if (pthread_create(&thread, NULL, work, NULL))
        _exit(2);
    while (signatures == before)
        usleep(100);
    usleep(50000);
    return thread;
}

/* The sessions are closed while another thread logs out. */
static void logged_out(void)
{
    must(list->C_Initialize(NULL));
    for (int run = 0; run < LOGOUTS; run++) {
        busy = log_in(list).session;
        pthread_t first = start(make_pair), second = start(log_out);
        must(list->C_CloseAllSessions(slot_of_test(list)));
        pthread_join(first, NULL);
        pthread_join(second, NULL);
    }
    must(list->C_Finalize(NULL));
}

static const struct { const char *name; void (*work)(void); } ways[] = {
    { "cancelled", cancelled }, { "finalized", finalized }, { "closed", closed }, { "logged_out", logged_out },
};

int main(int argc, char **argv)
{
    alarm(100);
    list = load(argv[1]);
    for (size_t i = 0; argc == 3 && i < sizeof ways / sizeof *ways; i++)
        if (!strcmp(argv[2], ways[i].name))
            ways[i].work();
    say("done");
    _exit(0); /* nothing of the module's may tidy up now */
}
