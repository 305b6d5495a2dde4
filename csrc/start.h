/* How far the start of Python is, and what every call does on its way to Python and back. */

#pragma once

#include <Python.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "abi.h"

enum { NEW, STARTING, STARTED, FAILED };

extern pthread_mutex_t start_lock; /* held while Python starts or a run begins or ends; taken before the GIL */
extern atomic_int state;           /* written with start_lock held, by the end of Python or by a child after fork */
extern atomic_bool ready;          /* between C_Initialize and C_Finalize */

/* Whether the calling thread has the GIL. */
bool holds_gil(void);

/* A thread that is cancelled (pthread_cancel(3)) must not take Python's locks with it: that has to wait until it goes back to the
 * host. */
static inline int refuse_cancel(void)
{
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    return before;
}

/* Goes back to what refuse_cancel() gave. */
static inline void allow_cancel(int before)
{
    pthread_setcancelstate(before, &before);
}

/* What a function of Python returned; CKR_GENERAL_ERROR unless Python's own code returned it. */
static inline CK_RV result(uint64_t answer)
{
    return (answer & FINISHED_MASK) == FINISHED ? (CK_RV)(answer & ~FINISHED_MASK) : CKR_GENERAL_ERROR;
}
