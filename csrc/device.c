/* A device file, and what a swtpm socket has in common with it: a descriptor. */

#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "deadline.h"
#include "keeper.h"

bool has_own(const connection *c)
{
    return is_ours(&c->own) && (c->watch.fd < 0 || is_ours(&c->watch));
}

void close_device(connection *c)
{
    let_go(&c->watch);
    if (c->asked && !c->kept && is_ours(&c->own) && !keep(c->own.fd))
        c->own.fd = -1; /* it stays open until the process ends */
    c->asked = false;
    let_go(&c->own);
}

void hang_up(connection *c)
{
    if (is_ours(&c->own))
        shutdown(c->own.fd, SHUT_RDWR);
    let_go(&c->own);
}

/* Linux (5.0 and later, tpm-dev-common.c) does a command in the background if the device was opened with O_NONBLOCK. For as
 * long poll(2), read(2) and the last close(2) wait in the kernel, up to five minutes, whatever signal comes: see keeper.c.
 * epoll(7) does not: with EPOLLET it looks at nothing before the driver calls. */
static int watch_device(connection *c)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
    int error = hold(&c->watch, epoll_create1(EPOLL_CLOEXEC));
    if (error)
        return error;
    if (!epoll_ctl(c->watch.fd, EPOLL_CTL_ADD, c->own.fd, &event)) {
        epoll_wait(c->watch.fd, &event, 1, 0); /* that it can be written to */
        return 0;
    }
    if (errno != EPERM)
        return errno;
    let_go(&c->watch); /* an older kernel, where write(2) waits for the response */
    return 0;
}

static int open_path(connection *c, const char *path)
{
    const char *slash = strrchr(path, '/');
    c->has_manager = !strncmp(slash ? slash + 1 : path, "tpmrm", 5);
    int error = hold(&c->own, open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (!error)
        error = watch_device(c);
    if (error)
        close_device(c);
    return error;
}

int open_device(connection *c)
{
    const char *colon = strchr(c->tcti, ':');
    if (is_kept())
        return EALREADY;
    if (colon && colon[1])
        return open_path(c, colon + 1);
    int error = open_path(c, "/dev/tpmrm0");
    return error == ENOENT ? open_path(c, "/dev/tpm0") : error;
}

int await(connection *c, short events)
{
    for (int looks = 1;; looks++) {
        struct pollfd ready = { .fd = c->own.fd, .events = events };
        struct epoll_event event;
        int left = ms_until(c->deadline), ms = left < LOOK_MS ? left : LOOK_MS;
        int count = c->watch.fd < 0 ? poll(&ready, 1, ms) : epoll_wait(c->watch.fd, &event, 1, ms);
        int error = errno;
        if (!has_own(c))
            return EBADF;
        if (count > 0)
            return 0;
        if (count < 0 && error != EINTR)
            return error;
        if (c->wish != GO_ON)
            return ECANCELED;
        if (looks == KEEP_MS / LOOK_MS && c->asked)
            c->kept = keep(c->own.fd);
        if (!left)
            return ETIMEDOUT;
    }
}

int write_all(connection *c, const uint8_t *bytes, size_t size)
{
    if (c->kind == DEVICE) { /* which takes a command whole */
        ssize_t written;
        do
            written = write(c->own.fd, bytes, size);
        while (written < 0 && errno == EINTR);
        c->asked = written > 0 && c->watch.fd >= 0;
        c->kept = false;
        return written < 0 ? errno : (size_t)written == size ? 0 : EIO;
    }
    while (size) {
        ssize_t written = send(c->own.fd, bytes, size, MSG_NOSIGNAL);
        int error = written >= 0 || errno == EINTR ? 0 : errno == EAGAIN ? await(c, POLLOUT) : errno;
        if (error)
            return error;
        if (written < 0)
            continue;
        bytes += written;
        size -= (size_t)written;
    }
    return 0;
}

int read_response(connection *c, uint8_t *response, size_t *response_size)
{
    size_t have = 0, wanted = HEADER_SIZE;
    while (have < wanted) {
        int error = await(c, POLLIN);
        if (error)
            return have && error == ETIMEDOUT ? EIO : error; /* fewer bytes than the header says */
        ssize_t more = read(c->own.fd, response + have, RESPONSE_SIZE - have);
        if (more < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        c->asked = false;
        if (more <= 0)
            return more < 0 ? errno : EIO;
        if (!have)
            c->deadline = from_now(REST_MS);
        have += (size_t)more;
        if (have >= HEADER_SIZE)
            wanted = be32(response + 2);
        if (wanted < HEADER_SIZE || wanted > RESPONSE_SIZE)
            return EIO;
    }
    *response_size = wanted;
    return have == wanted ? 0 : EIO;
}
