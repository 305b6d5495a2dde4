/* storm MODULE: as in a Go program: many threads come and go, and signals come all the time. */
#include "host.h"
#include <sys/time.h>

static CK_FUNCTION_LIST *list;
static signer who;
static atomic_long calls, failures, interruptions;

static void count(int number)
{
    (void)number;
    interruptions++;
}

static void *call(void *argument)
{
    CK_SESSION_INFO info;
    CK_BYTE signature[64];
    bool signs = (uintptr_t)argument % 20 == 0;
    signer mine = signs ? log_in(list) : who;
    for (int i = 0; i < 10; i++) {
        CK_RV rv = signs ? sign(mine, signature) : list->C_GetSessionInfo(who.session, &info);
        failures += rv != CKR_OK;
        calls++;
    }
    if (signs)
        failures += list->C_CloseSession(mine.session) != CKR_OK;
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[100];
    struct itimerval often = { { 0, 500 }, { 0, 500 } };
    list = load(argv[argc - 1]);
    must(list->C_Initialize(NULL));
    who = log_in(list);
    sigaction(SIGALRM, &(struct sigaction){ .sa_handler = count }, NULL); /* without SA_RESTART: calls are interrupted */
    setitimer(ITIMER_REAL, &often, NULL);
    for (uintptr_t round = 0; round < 10; round++) {
        for (uintptr_t i = 0; i < 100; i++)
            pthread_create(&threads[i], NULL, call, (void *)(i + 1));
        for (int i = 0; i < 100; i++)
            pthread_join(threads[i], NULL);
    }
    setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
    must(list->C_Finalize(NULL));
    say("calls %ld failures %ld interrupted %s", (long)calls, (long)failures, interruptions > 100 ? "often" : "seldom");
    return 0;
}
