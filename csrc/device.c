/* A device file, and what a swtpm socket has in common with it: a descriptor. */

/* The number is forgotten before the descriptor is closed: a child forked in between closes nothing that is not ours. */
static void close_fd(connection *c)
{
    int fd = c->fd;
    c->fd = -1;
    if (fd >= 0)
        close(fd);
}

/* Ends a conversation with swtpm. Closing is not enough: a child that was forked meanwhile may hold the socket too, and swtpm
 * would wait for that child before it serves anybody else. */
static void hang_up(connection *c)
{
    if (c->fd >= 0)
        shutdown(c->fd, SHUT_RDWR);
    close_fd(c);
}

static int open_path(connection *c, const char *path)
{
    const char *slash = strrchr(path, '/');
    c->has_manager = !strncmp(slash ? slash + 1 : path, "tpmrm", 5);
    c->fd = open(path, O_RDWR | O_CLOEXEC);
    return c->fd < 0 ? errno : 0;
}

static int open_device(connection *c)
{
    const char *colon = strchr(c->tcti, ':');
    if (colon && colon[1])
        return open_path(c, colon + 1);
    int error = open_path(c, "/dev/tpmrm0");
    return error == ENOENT ? open_path(c, "/dev/tpm0") : error;
}

/* Waits until the descriptor is ready for `events`. 0, an errno; ETIMEDOUT after the command's deadline, ECANCELED if nobody
 * wants its response any more. */
static int await(connection *c, short events)
{
    for (;;) {
        struct pollfd ready = { .fd = c->fd, .events = events };
        int left = ms_until(c->deadline);
        int count = poll(&ready, 1, left < LOOK_MS ? left : LOOK_MS);
        if (count > 0)
            return 0;
        if (count < 0 && errno != EINTR)
            return errno;
        if (c->wish != GO_ON)
            return ECANCELED;
        if (!left)
            return ETIMEDOUT;
    }
}

/* A driver takes a command whole, and Linux's lets write(2) wait for the response, with deadlines of its own: up to five minutes
 * (tpm2-cmd.c). With O_NONBLOCK it would be poll(2) that waits for as long (tpm-dev-common.c). */
static int write_all(connection *c, const uint8_t *bytes, size_t size)
{
    if (c->kind == DEVICE) {
        ssize_t written;
        do
            written = write(c->fd, bytes, size);
        while (written < 0 && errno == EINTR);
        return written < 0 ? errno : (size_t)written == size ? 0 : EIO;
    }
    while (size) {
        ssize_t written = send(c->fd, bytes, size, MSG_NOSIGNAL);
        int error = written >= 0 || errno == EINTR ? 0 : errno == EAGAIN ? await(c, POLLOUT) : errno;
        if (error)
            return error;
        if (written < 0)
            continue;
        bytes += written;
        size -= (size_t)written;
    }
    return 0;
}

static int read_response(connection *c, uint8_t *response, size_t *response_size)
{
    size_t have = 0, wanted = HEADER_SIZE;
    while (have < wanted) {
        int error = await(c, POLLIN);
        if (error)
            return have && error == ETIMEDOUT ? EIO : error; /* fewer bytes than the header says */
        ssize_t more = read(c->fd, response + have, RESPONSE_SIZE - have);
        if (more < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (more <= 0)
            return more < 0 ? errno : EIO;
        if (!have)
            c->deadline = from_now(REST_MS);
        have += (size_t)more;
        if (have >= HEADER_SIZE)
            wanted = be32(response + 2);
        if (wanted < HEADER_SIZE || wanted > RESPONSE_SIZE)
            return EIO;
    }
    *response_size = wanted;
    return have == wanted ? 0 : EIO;
}
