/* untouched MODULE: what belongs to the process is the same before and after a run of the library; during the run, no
 * descriptor is there that a program started by the host would inherit. */
#include "host.h"
#include <dirent.h>
#include <fenv.h>
#include <locale.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>

extern char **environ;

typedef struct {
    struct { sighandler_t handler; long flags; uint64_t blocked; } actions[65];
    sigset_t blocked;
    stack_t stack;
    struct itimerval timers[3];
    struct rlimit limits[RLIMIT_NLIMITS];
    mode_t mask;
    int rounding, dumpable, priority, flags[3];
    char cwd[4096], locale[1024], environment[65536], name[16];
} process;

static process look(void)
{
    static process now;
    memset(&now, 0, sizeof now);
    for (int i = 1; i < 65; i++) {
        struct sigaction one; /* the C library leaves parts of it as they were on its stack */
        sigaction(i, NULL, &one);
        now.actions[i].handler = one.sa_handler;
        now.actions[i].flags = one.sa_flags;
        for (int other = 1; other < 65; other++)
            now.actions[i].blocked |= (uint64_t)sigismember(&one.sa_mask, other) << (other - 1);
    }
    pthread_sigmask(SIG_SETMASK, NULL, &now.blocked);
    sigaltstack(NULL, &now.stack);
    for (int i = 0; i < 3; i++)
        getitimer(i, &now.timers[i]);
    for (int i = 0; i < RLIMIT_NLIMITS; i++)
        getrlimit(i, &now.limits[i]);
    now.mask = umask(0);
    umask(now.mask);
    now.rounding = fegetround();
    now.dumpable = prctl(PR_GET_DUMPABLE);
    now.priority = getpriority(PRIO_PROCESS, 0);
    for (int i = 0; i < 3; i++)
        now.flags[i] = fcntl(i, F_GETFL);
    if (!getcwd(now.cwd, sizeof now.cwd))
        say("no cwd");
    strcpy(now.locale, setlocale(LC_ALL, NULL));
    for (char **one = environ; *one; one++)
        strcat(strcat(now.environment, *one), "\n");
    prctl(PR_GET_NAME, now.name);
    return now;
}

#define same(before, after, field) \
    if (memcmp(&(before)->field, &(after)->field, sizeof(before)->field)) \
    say("changed: " #field)

static void compare(const process *before, const process *after)
{
    for (int i = 1; i < 65; i++)
        if (memcmp(&before->actions[i], &after->actions[i], sizeof *before->actions))
            say("changed: disposition of signal %d", i);
    same(before, after, blocked);
    same(before, after, stack);
    same(before, after, timers);
    same(before, after, limits);
    same(before, after, mask);
    same(before, after, rounding);
    same(before, after, dumpable);
    same(before, after, priority);
    same(before, after, flags);
    same(before, after, cwd);
    same(before, after, locale);
    same(before, after, environment);
    same(before, after, name);
}

static int inheritable(void)
{
    int number = 0;
    DIR *all = opendir("/proc/self/fd");
    for (struct dirent *one; (one = readdir(all));)
        if (one->d_name[0] != '.') {
            int flags = fcntl(atoi(one->d_name), F_GETFD);
            number += flags >= 0 && !(flags & FD_CLOEXEC);
        }
    closedir(all);
    return number;
}

static void caught(int number) { (void)number; }

int main(int argc, char **argv)
{
    static process before, after;
    CK_BYTE signature[64];
    signal(SIGINT, caught);
    signal(SIGPIPE, caught);
    umask(0123);
    setlocale(LC_ALL, "C");
    before = look();
    int open = inheritable();
    CK_FUNCTION_LIST *list = load(argv[argc - 1]);
    must(list->C_Initialize(NULL));
    signer who = log_in(list);
    must(sign(who, signature));
    after = look();
    compare(&before, &after);
    if (inheritable() != open)
        say("%d descriptors more would be inherited", inheritable() - open);
    must(list->C_Finalize(NULL));
    after = look();
    compare(&before, &after);
    say("compared");
    return 0;
}
