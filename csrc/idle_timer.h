/* The idle timer: a thread that lives from the opening to the end of the connection, at most idle_ms after its last use. */

#pragma once

#include "connection.h"

/* Starts the thread, unless the connection stays open for ever. With the lock held. */
void start_timer(connection *c);

/* Called with the lock held; waits without it for a thread that found the connection shut and is about to end. */
void join_timer(connection *c);
