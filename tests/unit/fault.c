/*
 * Preloaded into a program: disturbs it at the n-th point after fault_arm(n, kind): before a system call that changes a
 * file, and before and after one that sends something, such as a command to the TPM.
 *
 * The kinds KILL... end the program there as kill -9 does; LOSE... also undo what was written and not synced since, as
 * a power cut may: all of it, or every second write. A kind that is an errno makes that call and all later ones fail,
 * ONCE + errno only that call.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KILL = 0, LOSE_ALL = -1, LOSE_HALF = -2, ONCE = 1000, MOST = 4096 };

static struct change { int fd; off64_t at, end; size_t size; char *before; } unsynced[MOST];
static int count, left = -1, kind, seen;

void fault_arm(int n, int what) { left = n; kind = what; seen = 0; }
int fault_seen(void) { return seen; }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void undo(const struct change *c)
{
    REAL(pwrite64);
    if (real(c->fd, c->before, c->size, c->at) < 0)
        abort();
    if (kind == LOSE_ALL) {
        int (*cut)(int, off64_t) = (int (*)(int, off64_t))dlsym(RTLD_NEXT, "ftruncate64");
        if (cut(c->fd, c->end) < 0)
            abort();
    }
}

static int fails(void)
{
    int now = seen++;
    if (left < 0 || now < left || (kind > ONCE && now > left))
        return 0;
    if (kind <= KILL) {
        for (int i = count - 1; kind != KILL && i >= 0; i--)
            if (kind == LOSE_ALL || i % 2 == left % 2)
                undo(&unsynced[i]);
        kill(getpid(), SIGKILL);
    }
    errno = kind % ONCE;
    return 1;
}

/* Remember what `size` bytes at `at` were; what was behind the end of the file reads as zeros. */
static void remember(int fd, off64_t at, size_t size)
{
    struct stat64 status;
    if (left < 0 || count == MOST || fstat64(fd, &status) || !S_ISREG(status.st_mode))
        return;
    char *before = calloc(1, size + 1);
    if (!before || pread64(fd, before, size, at) < 0)
        abort();
    unsynced[count++] = (struct change){fd, at, status.st_size, size, before};
}

static void forget(int fd)
{
    int kept = 0;
    for (int i = 0; i < count; i++)
        if (unsynced[i].fd != fd)
            unsynced[kept++] = unsynced[i];
    count = kept;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    REAL(pwrite64);
    if (fails())
        return -1;
    remember(fd, at, size);
    return real(fd, data, size, at);
}

int ftruncate64(int fd, off64_t size)
{
    REAL(ftruncate64);
    struct stat64 status;
    if (fails())
        return -1;
    if (fstat64(fd, &status) == 0 && status.st_size > size)
        remember(fd, size, (size_t)(status.st_size - size));
    return real(fd, size);
}

#define SYNC(name) int name(int fd) { REAL(name); if (fails()) return -1; forget(fd); return real(fd); }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) { REAL(unlink); return fails() ? -1 : real(path); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); return fails() ? -1 : real(path, mode); }

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    REAL(send);
    if (kind > KILL) /* an errno is that of a disk */
        return real(fd, data, size, flags);
    fails();
    ssize_t sent = real(fd, data, size, flags);
    fails();
    return sent;
}
