/* A socket that tpm2-abrmd gave: p11tpm/tpm/tabrmd.py asks for it. */

static int open_broker(connection *c)
{
    if (c->own.fd < 0)
        return CONNECTION_WANTS_SOCKET;
    c->has_manager = true; /* the socket comes with O_NONBLOCK */
    return 0;
}

/* True if tpm2-abrmd has gone since the last command, with everything that was left in the TPM: nothing need be sent. */
static bool lost_broker(connection *c)
{
    return c->kind == BROKER && !is_alive(c);
}
