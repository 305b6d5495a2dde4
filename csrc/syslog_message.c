/*
 * Messages for syslog's daemon, as syslog(3) sends them. That function itself would keep a descriptor in the host, which may close
 * it and use its number for something else, would put our name on the host's own messages, and writes to stderr if the host has
 * said LOG_PERROR.
 */

#include "syslog_message.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum { SYSLOG_LONGEST = 4096 }; /* bytes of a message with what precedes it; the rest is cut off */

void send_to_syslog(const char *path, int severity, const char *line)
{
    static const char *const months[] = {
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", /* in any locale */
    };
    struct sockaddr_un daemon = { .sun_family = AF_UNIX };
    char message[SYSLOG_LONGEST];
    time_t now = time(NULL);
    struct tm here;
    if (strlen(path) >= sizeof daemon.sun_path || !localtime_r(&now, &here))
        return;
    strcpy(daemon.sun_path, path);
    int length = snprintf(message, sizeof message, "<%d>%s %2d %02d:%02d:%02d p11tpm[%d]: %s", LOG_AUTHPRIV | severity,
                          months[here.tm_mon], here.tm_mday, here.tm_hour, here.tm_min, here.tm_sec, (int)getpid(), line);
    if (length >= (int)sizeof message)
        length = sizeof message - 1;
    int channel = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (channel < 0)
        return;
    if (connect(channel, (struct sockaddr *)&daemon, sizeof daemon) == 0)
        (void)send(channel, message, (size_t)length, MSG_NOSIGNAL);
    close(channel);
}
