/* Whatever libtss2-tctildr can load. */

/* The library and those that it loads may start threads and write to closed sockets: neither may take the host's signals. */
static void unblock_signals(const sigset_t *old)
{
    sigset_t broken_pipe;
    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    if (!sigismember(old, SIGPIPE))
        while (sigtimedwait(&broken_pipe, NULL, &(struct timespec){ 0 }) > 0)
            ;
    pthread_sigmask(SIG_SETMASK, old, NULL);
}

static int errno_of_loader(TSS2_RC code)
{
    switch (code & 0xFFFF) {
    case TSS2_RC_SUCCESS:
        return 0;
    case TSS2_BASE_RC_NO_CONNECTION:
    case TSS2_BASE_RC_NOT_IMPLEMENTED:
        return ENODEV;
    case TSS2_BASE_RC_BAD_VALUE:
    case TSS2_BASE_RC_NOT_SUPPORTED:
        return EINVAL;
    case TSS2_BASE_RC_TRY_AGAIN:
        return ETIMEDOUT;
    case TSS2_BASE_RC_MEMORY:
        return ENOMEM;
    default:
        return EIO;
    }
}

static void remember_poll_fds(connection *c)
{
    TSS2_TCTI_POLL_HANDLE handles[POLL_MAX];
    size_t count = 0;
    c->poll_count = 0;
    if (Tss2_Tcti_GetPollHandles(c->loader, NULL, &count) || count > POLL_MAX
        || Tss2_Tcti_GetPollHandles(c->loader, handles, &count))
        return;
    for (size_t i = 0; i < count; i++) {
        c->poll_fds[c->poll_count++] = handles[i].fd;
        fcntl(handles[i].fd, F_SETFD, fcntl(handles[i].fd, F_GETFD) | FD_CLOEXEC);
    }
}

static int open_loader(connection *c)
{
    sigset_t old;
    if (secure())
        return CONNECTION_REFUSED_IN_SETUID;
    if (!has_first_root())
        return CONNECTION_REFUSED_IN_NEW_ROOT;
    block_signals(&old);
    int error = errno_of_loader(Tss2_TctiLdr_Initialize(c->tcti, &c->loader));
    if (!error)
        remember_poll_fds(c);
    unblock_signals(&old);
    return error;
}

/* As await() does it, where the library that was loaded can: that of the simulator, for one, waits without end. */
static TSS2_RC receive(connection *c, uint8_t *response, size_t *response_size)
{
    TSS2_RC code;
    int left;
    do {
        left = ms_until(c->deadline);
        *response_size = RESPONSE_SIZE;
        code = Tss2_Tcti_Receive(c->loader, response_size, response, left < LOOK_MS ? left : LOOK_MS);
    } while ((code & 0xFFFF) == TSS2_BASE_RC_TRY_AGAIN && left && c->wish == GO_ON);
    return code;
}

static int transact_loader(connection *c, const uint8_t *command, size_t size, uint8_t *response, size_t *response_size)
{
    sigset_t old;
    block_signals(&old);
    TSS2_RC code = Tss2_Tcti_Transmit(c->loader, size, command);
    if (!code)
        code = receive(c, response, response_size);
    unblock_signals(&old);
    int error = errno_of_loader(code);
    return error ? error : *response_size < HEADER_SIZE ? EIO : 0;
}
