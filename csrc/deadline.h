/* Times of CLOCK_MONOTONIC by which something has to be done. */

#pragma once

#include <stdbool.h>
#include <time.h>

/* The time `ms` after another. */
static inline struct timespec later(struct timespec time, int ms)
{
    time.tv_sec += ms / 1000;
    time.tv_nsec += ms % 1000 * 1000000L;
    if (time.tv_nsec >= 1000000000L) {
        time.tv_sec++;
        time.tv_nsec -= 1000000000L;
    }
    return time;
}

/* Whether `a` comes before `b`. */
static inline bool is_before(struct timespec a, struct timespec b)
{
    return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

/* The time in `ms`. */
static inline struct timespec from_now(int ms)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return later(now, ms);
}

/* How long it is to a time, rounded up; 0 if that has passed. */
static inline int ms_until(struct timespec time)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return is_before(now, time) ? (int)((time.tv_sec - now.tv_sec) * 1000 + (time.tv_nsec - now.tv_nsec + 999999L) / 1000000L) : 0;
}
