/* A socket that tpm2-abrmd gave: p11tpm/tpm/tabrmd.py asks for it. */

#include "tabrmd.h"

#include "swtpm.h"

int open_tabrmd(connection *c)
{
    if (c->own.fd < 0)
        return CONNECTION_WANTS_SOCKET;
    c->has_manager = true; /* the socket comes with O_NONBLOCK */
    return 0;
}

bool lost_tabrmd(connection *c)
{
    return c->kind == TABRMD && !is_alive(c);
}
