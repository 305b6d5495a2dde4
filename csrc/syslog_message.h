/* Messages for syslog's daemon that leave no descriptor open in the host. */

#pragma once

/* Sends one line to the daemon at `path`, from a socket of its own; where nobody listens, the line is lost. */
void send_to_syslog(const char *path, int severity, const char *line);
