/* A library to preload: the threads of the first process hold libcrypto's write locks for a while, so that a fork finds
 * them taken. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

static pid_t first;

static void __attribute__((constructor)) begin(void)
{
    first = getpid();
}

int pthread_rwlock_wrlock(pthread_rwlock_t *lock)
{
    int (*real)(pthread_rwlock_t *) = (int (*)(pthread_rwlock_t *))dlsym(RTLD_NEXT, "pthread_rwlock_wrlock");
    int error = real(lock);
    if (getpid() == first && gettid() != first)
        usleep(2000);
    return error;
}
