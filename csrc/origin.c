/*
 * Where code may come from: files that nobody but root and our user may change or replace, below the root directory of the
 * start, in the installation of the start. p11tpm/host/files.py: check_way has the same rules for the store's files, but for private
 * groups: where each user has a group of the same number, many work with a umask of 002. Neither can call the other: Python's code
 * is what is checked here.
 */

#include "origin.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "complain.h"
#include "installation.h"
#include "root.h"
#include "start.h"

static void *bundle = MAP_FAILED;
static size_t bundle_size;
static struct stat first_package; /* the package's directory: an upgrade replaces it */

/* Whether root or our user owns a file. A process that can become another user than the one it is trusts root only. */
static bool is_of_root_or_us(const struct stat *status)
{
    uid_t real, effective, saved;
    if (status->st_uid == 0)
        return true;
    return getresuid(&real, &effective, &saved) == 0 && real == effective && effective == saved && status->st_uid == effective;
}

static bool others_may_write(const struct stat *status)
{
    if (S_ISDIR(status->st_mode) && status->st_mode & S_ISVTX)
        return false; /* the next step on the way is checked */
    bool group = status->st_mode & S_IWGRP && status->st_gid != status->st_uid;
    return group || status->st_mode & S_IWOTH;
}

/* Checks a path without symbolic links, and each directory on the way to it. False: `why` says what is wrong. */
static bool is_trusted(const char *path, char *why, size_t size)
{
    char step[PATH_MAX];
    struct stat status;
    snprintf(step, sizeof step, "%s", path);
    for (;;) {
        if (lstat(step, &status)) {
            snprintf(why, size, "%s: %s", step, strerror(errno));
            return false;
        }
        if (!is_of_root_or_us(&status)) {
            snprintf(why, size, "%s belongs to another user (uid %u): no code is taken from there", step, status.st_uid);
            return false;
        }
        if (others_may_write(&status)) {
            snprintf(why, size, "other users may write to %s: no code is taken from there; run 'chmod go-w' on it", step);
            return false;
        }
        char *slash = strrchr(step, '/');
        if (!slash[1])
            return true;
        slash[slash == step] = 0;
    }
}

bool trusts_paths(void)
{
    char real[PATH_MAX], why[2 * PATH_MAX];
    if (!has_first_root()) {
        complain("the program has changed its root directory since it loaded this module: call C_Initialize before that");
        return false;
    }
    for (size_t i = 0; i < PATHS; i++)
        if (realpath(PATH[i], real) && !is_trusted(real, why, sizeof why)) {
            complain("%s", why);
            return false;
        }
    if (stat(PACKAGE, &first_package))
        first_package.st_ino = 0;
    return true;
}

/* Why no code can be taken from any path any more; NULL if it can. */
static const char *why_no_paths(void)
{
    struct stat now;
    if (!has_first_root())
        return "the program has changed its root directory";
    if (stat(PACKAGE, &now) || !is_same_file(&now, &first_package))
        return "the package was replaced or removed";
    return NULL;
}

PyObject *trusted_path(PyObject *self, PyObject *argument)
{
    char real[PATH_MAX], why[2 * PATH_MAX];
    PyObject *path = NULL;
    (void)self;
    if (!PyUnicode_FSConverter(argument, &path))
        return NULL;
    const char *lost = why_no_paths();
    bool trusted = false;
    if (lost)
        PyErr_Format(PyExc_ImportError, "%s since C_Initialize, and %s cannot be loaded any more: start the program again",
                     lost, PyBytes_AS_STRING(path));
    else if (!realpath(PyBytes_AS_STRING(path), real))
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, PyBytes_AS_STRING(path));
    else if (!(trusted = is_trusted(real, why, sizeof why)))
        PyErr_SetString(PyExc_ImportError, why);
    Py_DECREF(path);
    return trusted ? PyUnicode_DecodeFSDefault(real) : NULL;
}

static bool is_as_it_was(int directory, PyObject *path, PyObject *state)
{
    long long time, size;
    struct stat now;
    PyObject *name;
    if (!PyArg_ParseTuple(state, "LL", &time, &size) || !PyUnicode_FSConverter(path, &name))
        return false;
    bool there = fstatat(directory, PyBytes_AS_STRING(name), &now, 0) == 0;
    Py_DECREF(name);
    return there && now.st_size == size && now.st_mtim.tv_sec * 1000000000LL + now.st_mtim.tv_nsec == time;
}

PyObject *changed_files(PyObject *self, PyObject *states)
{
    (void)self;
    PyObject *path, *state, *changed = PySet_New(NULL);
    int directory = open(PACKAGE, O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (Py_ssize_t at = 0; changed && PyDict_Next(states, &at, &path, &state);) {
        bool same = is_as_it_was(directory, path, state);
        if (PyErr_Occurred() || (!same && PySet_Add(changed, path)))
            Py_CLEAR(changed);
    }
    if (directory >= 0)
        close(directory);
    return changed;
}

PyObject *map_bundle(void)
{
    char real[PATH_MAX], why[2 * PATH_MAX];
    struct stat status;
    if (!realpath(BUNDLE, real))
        return NULL;
    if (!is_trusted(real, why, sizeof why)) {
        PyErr_SetString(PyExc_ImportError, why);
        return NULL;
    }
    int file = open(real, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (file < 0)
        return NULL;
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
        bundle_size = (size_t)status.st_size;
        bundle = mmap(NULL, bundle_size, PROT_READ, MAP_PRIVATE, file, 0);
    }
    close(file);
    return bundle == MAP_FAILED ? NULL : PyMemoryView_FromMemory(bundle, status.st_size, PyBUF_READ);
}

PyObject *release_bundle(PyObject *self, PyObject *none)
{
    (void)self;
    (void)none;
    if (bundle != MAP_FAILED && state != STARTING)
        (void)madvise(bundle, bundle_size, MADV_DONTNEED);
    Py_RETURN_NONE;
}
