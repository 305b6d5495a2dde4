/*
 * The root directory that the process had when this was loaded. After chroot(2), a path leads to a file of whoever made the new
 * root: no code is taken from there, neither Python's nor a shared object. glibc keeps its own name service from it, too.
 */

#include "root.h"

static struct stat first_root;

__attribute__((constructor)) static void remember_root(void)
{
    if (stat("/", &first_root))
        first_root.st_ino = 0;
}

bool is_same_file(const struct stat *one, const struct stat *other)
{
    return one->st_dev == other->st_dev && one->st_ino == other->st_ino;
}

bool has_first_root(void)
{
    struct stat now;
    return stat("/", &now) == 0 && is_same_file(&now, &first_root);
}
