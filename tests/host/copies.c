/* copies HOW MODULE COPY: both in one process, each with a run of its own.
 * in_turn, together: initialised one after the other, or by two threads at once; beside: the second one is refused;
 * forks: ten children use both, while threads of the parent do. */
#include "host.h"

static CK_FUNCTION_LIST *lists[2];
static pthread_barrier_t barrier;
static atomic_long signatures;
static atomic_bool end;

static void *initialize(void *list)
{
    pthread_barrier_wait(&barrier);
    must(((CK_FUNCTION_LIST *)list)->C_Initialize(NULL));
    return NULL;
}

static void initialize_both(bool together)
{
    pthread_t threads[2];
    pthread_barrier_init(&barrier, NULL, together ? 2 : 1);
    for (int i = 0; i < 2; i++) {
        if (pthread_create(&threads[i], NULL, initialize, lists[i]))
            _exit(2);
        if (!together)
            pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < 2 && together; i++)
        pthread_join(threads[i], NULL);
}

static void sign_by_itself(CK_FUNCTION_LIST *list, CK_BYTE signature[64])
{
    must(list->C_Initialize(NULL));
    must(sign(log_in(list), signature));
    must(list->C_Finalize(NULL));
}

static void use_both(void)
{
    CK_BYTE signature[64];
    signer who[2];
    CK_INFO info;
    for (int i = 0; i < 2; i++)
        who[i] = log_in(lists[i]);
    for (int i = 0; i < 20; i++)
        must(sign(who[i % 2], signature));
    must(lists[0]->C_Finalize(NULL));
    say("the first: 0x%lx", lists[0]->C_GetInfo(&info));
    must(sign(who[1], signature));
    sign_by_itself(lists[0], signature);
    must(lists[1]->C_Finalize(NULL));
    say_signature(signature);
}

static void use_the_first(void)
{
    CK_BYTE signature[64];
    must(lists[0]->C_Initialize(NULL));
    signer who = log_in(lists[0]);
    say("the second: 0x%lx", lists[1]->C_Initialize(NULL));
    must(sign(who, signature));
    must(lists[0]->C_Finalize(NULL));
    say_signature(signature);
}

static void *keep_signing(void *list)
{
    CK_BYTE signature[64];
    signer who = log_in(list);
    while (!end) {
        must(sign(who, signature));
        signatures++;
    }
    return NULL;
}

static int child(void)
{
    CK_BYTE signature[64];
    alarm(60); /* it hangs */
    for (int i = 0; i < 2; i++)
        sign_by_itself(lists[i], signature);
    return 0;
}

static void fork_beside_both(void)
{
    pthread_t threads[2];
    int good = 0, status;
    initialize_both(false);
    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, keep_signing, lists[i]))
            _exit(2);
    for (int i = 0; i < 10; i++) {
        for (long before = signatures; signatures < before + 4;)
            usleep(1000);
        pid_t pid = fork();
        if (pid == 0)
            _exit(child());
        waitpid(pid, &status, 0);
        good += status == 0;
    }
    end = true;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    say("good %d", good);
}

int main(int argc, char **argv)
{
    for (int i = 0; i < 2; i++)
        lists[i] = load(argv[argc - 2 + i]);
    if (!strcmp(argv[1], "beside")) {
        use_the_first();
    } else if (!strcmp(argv[1], "forks")) {
        fork_beside_both();
    } else {
        initialize_both(!strcmp(argv[1], "together"));
        use_both();
    }
    return 0;
}
