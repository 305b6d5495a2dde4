/* LD_PRELOAD: whoever connects to syslog's socket comes to the one that $SYSLOG names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

int connect(int channel, const struct sockaddr *address, socklen_t size)
{
    int (*next)(int, const struct sockaddr *, socklen_t) = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
    struct sockaddr_un other = { .sun_family = AF_UNIX };
    const char *path = getenv("SYSLOG");
    if (!path || address->sa_family != AF_UNIX || strcmp(((const struct sockaddr_un *)address)->sun_path, "/dev/log"))
        return next(channel, address, size);
    strncpy(other.sun_path, path, sizeof other.sun_path - 1);
    return next(channel, (struct sockaddr *)&other, sizeof other);
}
