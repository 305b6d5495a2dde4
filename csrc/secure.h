/* Whether the program's caller has fewer rights than the program. */

#pragma once

#include <sys/auxv.h>

/* True in a program that runs with other rights than its caller's (getauxval(3), AT_SECURE). */
static inline int secure(void)
{
    return getauxval(AT_SECURE) != 0;
}
