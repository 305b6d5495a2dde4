/* A swtpm socket, kept for a few commands at a time, because swtpm serves one client at a time. */

#include "swtpm.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "deadline.h"
#include "device.h"
#include "root.h"

/* The value of one "name=value" of a comma-separated list, as new memory; NULL if it is not there. */
static char *setting(const char *list, const char *name)
{
    size_t length = strlen(name);
    while (list && *list) {
        size_t size = strcspn(list, ",");
        if (size > length && !strncmp(list, name, length) && list[length] == '=')
            return strndup(list + length + 1, size - length - 1);
        list += size + (list[size] == ',');
    }
    return NULL;
}

static int connect_swtpm(connection *c)
{
    int family = c->address ? c->address->ai_family : AF_UNIX;
    const struct sockaddr *address = c->address ? c->address->ai_addr : (struct sockaddr *)&c->path;
    socklen_t size = c->address ? c->address->ai_addrlen : sizeof c->path;
    int error = hold(&c->own, socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (error)
        return error;
    error = connect(c->own.fd, address, size) ? errno : 0;
    while (error == EAGAIN && ms_until(c->deadline) && c->wish == GO_ON) { /* a Unix socket, and its queue is full */
        poll(NULL, 0, 1);
        error = !is_ours(&c->own) ? EBADF : connect(c->own.fd, address, size) ? errno : 0;
    }
    if (error == EINPROGRESS || error == EINTR) { /* goes on by itself: connect(2) */
        socklen_t length = sizeof error;
        error = await(c, POLLOUT);
        if (!error && getsockopt(c->own.fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
            error = errno;
    }
    if (error == EAGAIN)
        error = ETIMEDOUT;
    if (error)
        let_go(&c->own);
    return error;
}

int open_swtpm(connection *c)
{
    const char *colon = strchr(c->tcti, ':');
    const char *list = colon ? colon + 1 : "";
    char *path = setting(list, "path"), *host = setting(list, "host"), *port = setting(list, "port");
    int error = 0;
    if (path) {
        c->path.sun_family = AF_UNIX;
        if (strlen(path) < sizeof c->path.sun_path)
            strcpy(c->path.sun_path, path);
        else
            error = ENAMETOOLONG;
    } else if (!c->address) {
        /* names are looked up by shared objects that glibc loads from where nsswitch.conf says */
        struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = has_first_root() ? 0 : AI_NUMERICHOST };
        if (getaddrinfo(host ? host : "localhost", port ? port : "2321", &hints, &c->address))
            error = EHOSTUNREACH;
    }
    free(path);
    free(host);
    free(port);
    c->deadline = from_now(OPEN_MS);
    if (!error)
        error = connect_swtpm(c); /* says now whether anybody is there */
    hang_up(c);
    return error;
}

bool is_alive(connection *c)
{
    struct pollfd quiet = { .fd = c->own.fd, .events = POLLIN };
    return poll(&quiet, 1, 0) == 0;
}

int begin_swtpm(connection *c)
{
    if (is_ours(&c->own) && is_alive(c))
        return 0;
    hang_up(c);
    int error = connect_swtpm(c);
    clock_gettime(CLOCK_MONOTONIC, &c->connected);
    pthread_cond_signal(&c->wake); /* the timer is to end this one sooner than the whole */
    return error;
}

void linger(connection *c, int error)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (error || !c->timer_started || !is_before(now, later(c->connected, TURN_MS)))
        hang_up(c);
}
