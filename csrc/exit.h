/* The end of a process that did not call C_Finalize: what it left in a TPM without a resource manager is flushed. */

#pragma once

#include <stdatomic.h>

#include "connection.h"

extern atomic_bool process_ends; /* nothing is opened any more */

/* Makes the end of the process take care of a connection; one that finds no place is left to the process that comes next. */
void register_connection(connection *c);

/* False if the end of the process has taken the connection: then it has to stay where it is. */
bool unregister_connection(connection *c);
