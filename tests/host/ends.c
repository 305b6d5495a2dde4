/* ends MODULE WAY: logs in, signs, says so, and when there is no more on stdin ends in some way, without C_Finalize unless the way
 * says so. */
#include "host.h"
#include <sys/time.h>

static CK_FUNCTION_LIST *list;
static signer who;
static void *library;
static atomic_long signatures;

static void sign_once(void)
{
    CK_BYTE signature[64];
    must(sign(who, signature));
    signatures++;
}

static void *keep_signing(void *nothing)
{
    CK_BYTE signature[64];
    for (signer me = log_in(list);;) /* until the process is gone: what it gets near the end does not matter */
        if (sign(me, signature) == CKR_OK)
            signatures++;
    return nothing;
}

static void *leave(void *nothing)
{
    exit(0);
    return nothing;
}

static void start(void *(*work)(void *))
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, NULL))
        _exit(2);
}

static void by_exit(void)
{
    exit(0);
}

static void from_a_thread(void)
{
    start(leave);
    for (;;)
        pause();
}

static void while_others_sign(void)
{
    for (int i = 0; i < 4; i++)
        start(keep_signing);
    while (signatures < 20)
        usleep(1000);
    exit(0);
}

static void beside_a_command(void)
{
    start(keep_signing);
    exit(0);
}

static void on_signal(int number)
{
    exit(number ? 0 : 2);
}

static void in_a_handler(void)
{
    signal(SIGTERM, on_signal);
    raise(SIGTERM);
}

static void in_a_command(void)
{
    struct itimerval soon = { .it_value.tv_usec = 200000 };
    signal(SIGALRM, on_signal);
    setitimer(ITIMER_REAL, &soon, NULL);
    for (;;)
        sign_once(); /* on a TPM that does not answer */
}

static void sign_at_exit(void)
{
    sign_once(); /* as a library's own clean-up may */
}

static void after_a_last_signature(void)
{
    atexit(sign_at_exit);
}

static void finalize(void)
{
    must(list->C_Finalize(NULL));
}

static void finalized_at_exit(void)
{
    atexit(finalize);
}

static void unloaded(void)
{
    dlclose(library);
}

static void after_a_child(void)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        exit(0);
    waitpid(pid, &status, 0);
    sign_once(); /* what is loaded is still there */
    if (status)
        _exit(2);
}

static void by_quick_exit(void)
{
    _exit(0);
}

static void terminated(void)
{
    raise(SIGTERM);
}

static void killed(void)
{
    raise(SIGKILL);
}

static void by_return(void) {}

static const struct { const char *name; void (*end)(void); } ways[] = {
    { "return", by_return },          { "exit", by_exit },
    { "thread", from_a_thread },      { "busy", while_others_sign },
    { "beside", beside_a_command },   { "interrupted", in_a_command },
    { "handler", in_a_handler },      { "last", after_a_last_signature },
    { "finalized", finalized_at_exit }, { "unloaded", unloaded },
    { "child", after_a_child },       { "_exit", by_quick_exit },
    { "SIGTERM", terminated },        { "SIGKILL", killed },
};

int main(int argc, char **argv)
{
    char nothing;
    library = open_module(argv[1], RTLD_NOW | RTLD_LOCAL);
    list = functions_of(library);
    must(list->C_Initialize(NULL));
    who = log_in(list);
    sign_once();
    say("signed");
    while (read(STDIN_FILENO, &nothing, 1) > 0)
        ;
    for (size_t i = 0; argc == 3 && i < sizeof ways / sizeof *ways; i++)
        if (!strcmp(argv[2], ways[i].name)) {
            ways[i].end();
            return 0;
        }
    return 2;
}
