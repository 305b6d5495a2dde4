/*
 * A descriptor of ours in a process that belongs to the host. Hosts that close all that they do not know (close_range(2)) close
 * ours too, and then the number stands for what they open next. So before each use it is looked whether the number still stands
 * for the file that we opened: one that does not is forgotten, and never closed.
 */

#include "descriptor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

/* A signal that is never sent, since O_ASYNC is not set. It tells our opening of a file from others of the same one: devices and
 * epoll(7)'s descriptors have an inode in common, sockets do not. */
enum { MARK = SIGURG };

int hold(descriptor *d, int fd)
{
    struct stat status;
    d->fd = -1;
    if (fd < 0 || fstat(fd, &status))
        return errno;
    fcntl(fd, F_SETSIG, MARK);
    *d = (descriptor){ fd, status.st_dev, status.st_ino };
    return 0;
}

bool is_ours(const descriptor *d)
{
    struct stat now;
    return d->fd >= 0 && !fstat(d->fd, &now) && now.st_dev == d->device && now.st_ino == d->inode
        && (S_ISSOCK(now.st_mode) || fcntl(d->fd, F_GETSIG) == MARK);
}

/* The number is forgotten before the descriptor is closed: a child forked in between closes nothing that is not ours. */
void let_go(descriptor *d)
{
    descriptor old = *d;
    d->fd = -1;
    if (is_ours(&old))
        close(old.fd);
}
