/*
 * fork: a child must not find the GIL, or a start of Python, in the hands of a thread that it does not have.
 *
 * What the handlers tell each other is the forking thread's own.
 */

#include "fork.h"

#include <Python.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "start.h"

enum { FORK_SECONDS = 10 }; /* longer a fork does not wait for a start or an end, which take less: p11tpm/host/ending.py */

static __thread struct {
    int cancel;  /* whether the thread may be cancelled */
    bool locked; /* start_lock */
    bool took;   /* the GIL, and Python's own locks */
    PyGILState_STATE gil;
} forking;

static bool python_runs(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsInitialized() && !Py_IsFinalizing();
#else
    return Py_IsInitialized() && !_Py_IsFinalizing();
#endif
}

static void before_fork(void)
{
    forking.cancel = refuse_cancel();
    forking.took = false;
    if (python_runs() && holds_gil()) {
        /* Python itself forks: it has made its preparations, and start_lock comes before the GIL */
        forking.locked = pthread_mutex_trylock(&start_lock) == 0;
        return;
    }
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += FORK_SECONDS;
    /* EDEADLK: forked by something that C_Initialize called */
    forking.locked = pthread_mutex_clocklock(&start_lock, CLOCK_MONOTONIC, &end) == 0;
    if (state == STARTED && python_runs()) {
        forking.gil = PyGILState_Ensure();
        PyOS_BeforeFork();
        forking.took = true;
    }
}

static void after_fork_in_parent(void)
{
    if (forking.took) {
        PyOS_AfterFork_Parent();
        PyGILState_Release(forking.gil);
    }
    if (forking.locked)
        pthread_mutex_unlock(&start_lock);
    allow_cancel(forking.cancel);
}

static void after_fork_in_child(void)
{
    ready = false;
    if (forking.took) {
        PyOS_AfterFork_Child();
        /* not PyGILState_Release: it would delete the only thread state that is left, and Python 3.11 cannot make a first
         * one twice */
        PyEval_SaveThread();
    }
    if (!forking.locked && state == STARTING)
        state = FAILED; /* cffi's own lock is lost with the thread that was starting */
    /* not unlocked: the owner that it remembers is the parent's thread id */
    start_lock = (pthread_mutex_t)PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
    allow_cancel(forking.cancel);
}

void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}
