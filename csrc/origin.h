/* Where code may come from: which files and directories Python may take it from. */

#pragma once

#include <Python.h>
#include <stdbool.h>

/* Whether all places that Python is to import from may be trusted; nothing is imported from one that is not there. */
bool trusts_paths(void);

/* For finder.py: gives a path without symbolic links if code may be taken from there; ImportError if not, OSError if it leads
 * nowhere. */
PyObject *trusted_path(PyObject *self, PyObject *argument);

/* For finder.py: gives the paths, relative ones below the package, of those files of a dict whose time of change (ns) and size (bytes)
 * are not what it has for them. */
PyObject *changed_files(PyObject *self, PyObject *states);

/* The file with the byte code, in memory, where neither the root directory nor an upgrade changes it; NULL without an exception
 * if there is none. */
PyObject *map_bundle(void);

/* For finder.py: gives the memory of that file back when a module was read, but for the start, which reads many; Linux would
 * count 2 MiB of it for a module as the process's own. */
PyObject *release_bundle(PyObject *self, PyObject *none);
