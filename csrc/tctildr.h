/* Whatever libtss2-tctildr can load, in a thread of its own. */

#pragma once

#include "connection.h"

/* Starts the thread and lets it load what the TCTI names. 0, an errno, CONNECTION_REFUSED_IN_SETUID, or
 * CONNECTION_REFUSED_IN_NEW_ROOT after chroot(2). */
int open_tctildr(connection *c);

/* Ends the thread and what it has loaded, if there is one. */
void close_tctildr(connection *c);

/* Sends a command and receives the response. 0, or an errno. */
int transact_tctildr(connection *c, const uint8_t *command, size_t size, uint8_t *response, size_t *response_size);
