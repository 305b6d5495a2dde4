/* A device file, and what a swtpm socket has in common with it: a descriptor. */

#pragma once

#include "connection.h"

/* Whether the host has left us what is open. */
bool has_own(const connection *c);

/* Opens the device that the TCTI names, or Linux's first one. 0, or an errno. */
int open_device(connection *c);

/* Closes the device; a keeper waits for the response that nobody has read. */
void close_device(connection *c);

/* Ends a conversation with swtpm. Closing is not enough: a child that was forked meanwhile may hold the socket too, and swtpm
 * would wait for that child before it serves anybody else. */
void hang_up(connection *c);

/* Waits until the descriptor is ready for `events`. 0, an errno; ETIMEDOUT after the command's deadline, ECANCELED if nobody
 * wants its response any more, EBADF if the host has closed the descriptor. */
int await(connection *c, short events);

/* Sends a command. 0, or an errno as await() gives it. */
int write_all(connection *c, const uint8_t *bytes, size_t size);

/* Receives a response of at most RESPONSE_SIZE bytes. 0, or an errno as await() gives it; EIO if it is not a TPM's. */
int read_response(connection *c, uint8_t *response, size_t *response_size);
