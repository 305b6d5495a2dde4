/* A process that keeps a device open until the driver has done a command, so that nobody else has to wait for that in the
 * kernel: no call of ours that gives up, and no host that is ended by a signal. */

#include "keeper.h"

#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "signals.h"

enum { KEEPER_STACK = 16384 };

static _Atomic pid_t keeper; /* 0 for none; in a forked child it may be the parent's */

/* In the keeper: nothing that is the host's stays open, and poll(2) waits for the driver. */
static int keep_open(void *descriptor)
{
    struct pollfd device = { .fd = *(int *)descriptor };
    if (device.fd)
        syscall(SYS_close_range, 0, device.fd - 1, 0);
    syscall(SYS_close_range, device.fd + 1, ~0U, 0);
    return poll(&device, 1, 0);
}

bool is_kept(void)
{
    pid_t pid = keeper;
    if (pid && waitpid(pid, NULL, WNOHANG | __WCLONE) != 0)
        atomic_compare_exchange_strong(&keeper, &pid, 0);
    return keeper;
}

bool keep(int fd)
{
    _Alignas(16) char stack[KEEPER_STACK];
    sigset_t old;
    if (is_kept())
        return false;
    block_signals(&old);
    pid_t pid = clone(keep_open, stack + sizeof stack, 0, &fd);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (pid > 0)
        keeper = pid;
    return pid > 0;
}
