/* A socket that tpm2-abrmd gave: p11tpm/tpm/tabrmd.py asks for it. */

#pragma once

#include "connection.h"

/* Takes the socket that connection_open() was given. 0, or CONNECTION_WANTS_SOCKET if it was not given one. */
int open_tabrmd(connection *c);

/* True if tpm2-abrmd has gone since the last command, with everything that was left in the TPM: nothing need be sent. */
bool lost_tabrmd(connection *c);
