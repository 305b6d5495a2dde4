/* forks MODULE CHILDREN: forks while eight threads sign. Each child finds the library not initialised and signs by itself;
 * the parent goes on. */
#include "host.h"

static CK_FUNCTION_LIST *list;
static atomic_bool end;
static atomic_long signatures, failures;

static void *keep_signing(void *nothing)
{
    CK_BYTE signature[64];
    signer who = log_in(list);
    while (!end)
        if (sign(who, signature) == CKR_OK)
            signatures++;
        else
            failures++;
    return nothing;
}

static int child(void)
{
    CK_BYTE signature[64];
    CK_INFO info;
    alarm(60); /* it hangs */
    if (list->C_GetInfo(&info) != CKR_CRYPTOKI_NOT_INITIALIZED)
        return 1;
    must(list->C_Initialize(NULL));
    must(sign(log_in(list), signature));
    must(list->C_Finalize(NULL));
    return 0;
}

int main(int argc, char **argv)
{
    pthread_t threads[8];
    int good = 0, status;
    list = load(argv[1]);
    must(list->C_Initialize(NULL));
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, keep_signing, NULL);
    while (signatures < 8)
        usleep(1000);
    for (int i = 0; i < atoi(argv[argc - 1]); i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(child());
        waitpid(pid, &status, 0);
        if (status == 0)
            good++;
        else
            say("child %d: status 0x%x", i, status);
    }
    long before = signatures;
    while (signatures < before + 80 && !failures)
        usleep(1000);
    end = true;
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    must(list->C_Finalize(NULL));
    say("good %d failures %ld", good, (long)failures);
    return 0;
}
