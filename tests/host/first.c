/* first MODULE: eight threads make the first call of C_Initialize at once, while the main thread forks; one of them
 * starts the run, the others are told so, and each child can start its own. Threads begin and end while nobody
 * forks: libasan takes locks of its own for that, which it leaves locked in a child. */
#include "host.h"

static CK_FUNCTION_LIST *list;
static atomic_int started, told, other;
static pthread_barrier_t began, forked;

static void *begin(void *nothing)
{
    pthread_barrier_wait(&began);
    CK_RV rv = list->C_Initialize(NULL);
    (*(rv == CKR_OK ? &started : rv == CKR_CRYPTOKI_ALREADY_INITIALIZED ? &told : &other))++;
    pthread_barrier_wait(&forked);
    return nothing;
}

int main(int argc, char **argv)
{
    pthread_t threads[8];
    int good = 0, status;
    CK_INFO info;
    list = load(argv[argc - 1]);
    pthread_barrier_init(&began, NULL, 8 + 1);
    pthread_barrier_init(&forked, NULL, 8 + 1);
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, begin, NULL);
    pthread_barrier_wait(&began);
    for (int i = 0; i < 10; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            must(list->C_Initialize(NULL));
            must(list->C_GetInfo(&info));
            _exit(0);
        }
        waitpid(pid, &status, 0);
        good += status == 0;
    }
    pthread_barrier_wait(&forked);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    must(list->C_GetInfo(&info));
    say("started %d told %d other %d good %d", started, told, other, good);
    return 0;
}
