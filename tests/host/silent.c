/* silent MODULE WAY: logs in, signs and says so; a thread then signs in a session of its own, says "asks" before and what came
 * of it after. With the next byte on stdin the first thread ends something, meanwhile, and says what came of that. Every
 * answer is said with the milliseconds that it took. */
#include "host.h"
#include <time.h>

static CK_FUNCTION_LIST *list;
static CK_RV (*session_cancel)(CK_SESSION_HANDLE, CK_FLAGS);
static signer first, other;

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void next_byte(void)
{
    char byte;
    if (read(STDIN_FILENO, &byte, 1) != 1)
        _exit(3);
}

static void *sign_there(void *nothing)
{
    CK_BYTE signature[64];
    long start = now();
    CK_RV rv = sign(other, signature);
    say("sign 0x%lx %ld", rv, now() - start);
    return nothing;
}

static void *end_there(void *nothing)
{
    list->C_Finalize(NULL);
    return nothing;
}

static pthread_t start(void *(*work)(void *))
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, NULL))
        _exit(2);
    return thread;
}

static CK_RV nothing_at_all(void) { return CKR_OK; }
static CK_RV finalize(void) { return list->C_Finalize(NULL); }
static CK_RV logout(void) { return list->C_Logout(first.session); }
static CK_RV close_all(void) { return list->C_CloseAllSessions(slot_of_test(list)); }
static CK_RV close_own(void) { return list->C_CloseSession(first.session); }
static CK_RV close_other(void) { return list->C_CloseSession(other.session); }
static CK_RV cancel(void) { return session_cancel(other.session, CKF_SIGN); }

static CK_RV fork_meanwhile(void)
{
    int status = 0;
    pthread_t thread = start(end_there);
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    CK_RV rv = pid < 0 || waitpid(pid, &status, 0) != pid || status ? CKR_GENERAL_ERROR : CKR_OK;
    pthread_join(thread, NULL);
    return rv;
}

static const struct { const char *name; CK_RV (*end)(void); } ways[] = {
    { "nothing", nothing_at_all }, { "C_Finalize", finalize },      { "C_Logout", logout },
    { "C_CloseAllSessions", close_all }, { "C_CloseSession", close_own }, { "C_CloseSession of the other", close_other },
    { "C_SessionCancel", cancel }, { "fork", fork_meanwhile },
};

int main(int argc, char **argv)
{
    CK_BYTE signature[64];
    void *library = open_module(argv[1], RTLD_NOW | RTLD_LOCAL);
    bool alone = argc == 4 && !strcmp(argv[3], "alone");
    list = functions_of(library);
    session_cancel = (CK_RV (*)(CK_SESSION_HANDLE, CK_FLAGS))dlsym(library, "C_SessionCancel");
    must(list->C_Initialize(NULL));
    first = log_in(list);
    other = log_in(list);
    must(sign(first, signature));
    say("signed");
    next_byte();
    pthread_t thread = alone ? 0 : start(sign_there);
    if (!alone)
        next_byte();
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (!strcmp(argv[2], ways[i].name)) {
            long start = now();
            CK_RV rv = ways[i].end();
            say("ends 0x%lx %ld", rv, now() - start);
        }
    if (!alone)
        pthread_join(thread, NULL);
    _exit(0);
}
