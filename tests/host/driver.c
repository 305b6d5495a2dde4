/* Preloaded into a program: makes the terminal $DRIVER a TPM's device as Linux has them (drivers/char/tpm/tpm-dev-common.c).
 *
 * A command is done by write(2), or in the background after open(2) with O_NONBLOCK. Until then poll(2), read(2) and the last
 * close(2), also that of a process that ends, wait as nothing can end it; epoll(7) waits as usual once it watches the device.
 * A response with the code -EFAULT becomes that error, as /dev/tpmrm0 has it when a context cannot be saved or loaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <termios.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define REAL(name) __typeof__(&name) real = NEXT(name)

static const unsigned char not_swapped[] = { 0x80, 0x01, 0, 0, 0, 10, 0xff, 0xff, 0xff, 0xf2 };
static int device = -1;
static volatile bool in_background, asked, shared;

static void wait_for_response(int fd)
{
    struct pollfd readable = { .fd = fd, .events = POLLIN };
    while (fd == device && asked && NEXT(poll)(&readable, 1, -1) < 0)
        ;
}

int open64(const char *path, int flags, ...)
{
    REAL(open64);
    const char *ours = getenv("DRIVER");
    va_list more;
    va_start(more, flags);
    int fd = real(path, flags, va_arg(more, mode_t));
    va_end(more);
    if (fd >= 0 && ours && !strcmp(path, ours)) {
        device = fd;
        in_background = flags & O_NONBLOCK;
        asked = shared = false;
        tcflush(fd, TCIFLUSH); /* the response to what another program asked is not ours */
    }
    return fd;
}

ssize_t write(int fd, const void *bytes, size_t size)
{
    REAL(write);
    ssize_t written = real(fd, bytes, size);
    if (fd == device && written > 0)
        asked = true, shared = false;
    if (!in_background)
        wait_for_response(fd);
    return written;
}

ssize_t read(int fd, void *bytes, size_t size)
{
    REAL(read);
    wait_for_response(fd);
    ssize_t more = real(fd, bytes, size);
    if (fd == device && more > 0)
        asked = false;
    if (fd == device && more == sizeof not_swapped && !memcmp(bytes, not_swapped, sizeof not_swapped)) {
        errno = EFAULT;
        return -1;
    }
    return more;
}

int poll(struct pollfd *fds, nfds_t count, int timeout)
{
    REAL(poll);
    for (nfds_t i = 0; i < count; i++)
        wait_for_response(fds[i].fd);
    return real(fds, count, timeout);
}

int epoll_ctl(int watch, int how, int fd, struct epoll_event *event)
{
    REAL(epoll_ctl);
    wait_for_response(fd);
    return real(watch, how, fd, event);
}

/* A terminal also tells when it takes more. */
int epoll_wait(int watch, struct epoll_event *events, int most, int timeout)
{
    REAL(epoll_wait);
    struct pollfd readable = { .fd = device, .events = POLLIN };
    int count = real(watch, events, most, timeout);
    return asked && count > 0 && !NEXT(poll)(&readable, 1, 0) ? 0 : count;
}

int close(int fd)
{
    REAL(close);
    if (!shared)
        wait_for_response(fd);
    if (fd == device)
        device = -1;
    return real(fd);
}

int clone(int (*function)(void *), void *stack, int flags, void *argument, ...)
{
    REAL(clone);
    int pid = real(function, stack, flags, argument);
    shared = pid > 0;
    return pid;
}

__attribute__((destructor)) static void end(void)
{
    if (!shared)
        wait_for_response(device);
}
