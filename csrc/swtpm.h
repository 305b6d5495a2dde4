/* A swtpm socket, kept for a few commands at a time, because swtpm serves one client at a time. */

#pragma once

#include "connection.h"

/* Looks the address up; connected is for a few commands at a time, because swtpm serves one client at a time. */
int open_swtpm(connection *c);

/* Whether the other end of a kept connection is still there: nothing can be read before something was asked. */
bool is_alive(connection *c);

/* Connects before a command, unless the last one's socket is still there. 0, or an errno. */
int begin_swtpm(connection *c);

/* Connecting costs as much as half a signature, so swtpm's socket is kept after an action for one that follows at once. */
void linger(connection *c, int error);
