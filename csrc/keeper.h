/* A process that keeps a device open until the driver has done a command. */

#pragma once

#include <stdbool.h>

enum { KEEP_MS = 3000 }; /* a keeper is started after this time without an answer: most commands take less */

/* Whether the driver still has an earlier command of this process. Nobody else waits for a keeper that has ended. */
bool is_kept(void);

/* Starts the keeper, of which no signal tells the host, and no wait(2) of its. False if there cannot be one, or is one. */
bool keep(int fd);
