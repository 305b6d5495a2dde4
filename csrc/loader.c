/*
 * Whatever libtss2-tctildr can load.
 *
 * That library and those that it loads write their errors to descriptor 2, where the host may have a peer, and leave descriptors
 * open that the host may close. So they are called by a thread with descriptors of its own (unshare(2), CLONE_FILES), of which the
 * first three lead to /dev/null. It has all signals blocked: what it writes to closed sockets ends with it.
 */

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

static void await_semaphore(sem_t *semaphore)
{
    while (sem_wait(semaphore) && errno == EINTR)
        ;
}

/* 0, or an errno: the thread still shares the host's descriptors. */
static int leave_descriptors(void)
{
    if (syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, CLOSE_RANGE_UNSHARE))
        return errno;
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; nothing >= 0 && i <= STDERR_FILENO; i++)
        if (dup2(nothing, i) < 0)
            return errno;
    return nothing < 0 ? errno : 0;
}

static void *serve(void *argument)
{
    connection *c = argument;
    c->loader.error = leave_descriptors();
    for (;;) {
        sem_post(&c->loader.done);
        await_semaphore(&c->loader.asked);
        if (!c->loader.work)
            return NULL;
        c->loader.error = c->loader.work(c);
    }
}

/* Lets the thread do something, and gives what that gives. */
static int ask_loader(connection *c, int (*work)(connection *))
{
    c->loader.work = work;
    sem_post(&c->loader.asked);
    await_semaphore(&c->loader.done);
    return c->loader.error;
}

static int start_loader(connection *c)
{
    sigset_t old;
    sem_init(&c->loader.asked, 0, 0);
    sem_init(&c->loader.done, 0, 0);
    block_signals(&old);
    int error = pthread_create(&c->loader.thread, NULL, serve, c);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    c->loader.runs = !error;
    if (error)
        return error;
    await_semaphore(&c->loader.done);
    return c->loader.error;
}

static int initialize_loader(connection *c)
{
    return errno_of_loader(Tss2_TctiLdr_Initialize(c->tcti, &c->loader.context));
}

static int finalize_loader(connection *c)
{
    Tss2_TctiLdr_Finalize(&c->loader.context);
    return 0;
}

static void close_loader(connection *c)
{
    if (!c->loader.runs)
        return;
    if (c->loader.context)
        ask_loader(c, finalize_loader);
    c->loader.work = NULL;
    sem_post(&c->loader.asked);
    pthread_join(c->loader.thread, NULL);
    c->loader.runs = false;
}

static int open_loader(connection *c)
{
    if (secure())
        return CONNECTION_REFUSED_IN_SETUID;
    if (!has_first_root())
        return CONNECTION_REFUSED_IN_NEW_ROOT;
    int error = start_loader(c);
    if (!error)
        error = ask_loader(c, initialize_loader);
    if (error)
        close_loader(c);
    return error;
}

/* As await() does it, where the library that was loaded can: that of the simulator, for one, waits without end. */
static TSS2_RC receive(connection *c)
{
    TSS2_RC code;
    int left;
    do {
        left = ms_until(c->deadline);
        *c->loader.response_size = RESPONSE_SIZE;
        code = Tss2_Tcti_Receive(c->loader.context, c->loader.response_size, c->loader.response, left < LOOK_MS ? left : LOOK_MS);
    } while ((code & 0xFFFF) == TSS2_BASE_RC_TRY_AGAIN && left && c->wish == GO_ON);
    return code;
}

static int exchange(connection *c)
{
    TSS2_RC code = Tss2_Tcti_Transmit(c->loader.context, c->loader.size, c->loader.command);
    int error = errno_of_loader(code ? code : receive(c));
    return error ? error : *c->loader.response_size < HEADER_SIZE ? EIO : 0;
}

static int transact_loader(connection *c, const uint8_t *command, size_t size, uint8_t *response, size_t *response_size)
{
    c->loader.command = command;
    c->loader.size = size;
    c->loader.response = response;
    c->loader.response_size = response_size;
    return ask_loader(c, exchange);
}
