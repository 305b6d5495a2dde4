/* The root directory that the process had when this was loaded, and whether it still has it. */

#pragma once

#include <stdbool.h>
#include <sys/stat.h>

/* Whether two results of stat(2) are of one file. */
bool is_same_file(const struct stat *one, const struct stat *other);

/* Whether the root directory is still that one; false after chroot(2). */
bool has_first_root(void);
