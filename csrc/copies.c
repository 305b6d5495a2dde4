/*
 * Copies of this module in one process, at different paths: p11-kit's and the program's own, an old one and a new one.
 *
 * They share one Python, and the modules below p11tpm.entry; each has its own entry, and with it a run, sessions and logins of
 * its own: LOAD_ENTRY in csrc/build.py. Each has its own start_lock, too: what makes them start one after the other is here.
 */

#include "copies.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "complain.h"
#include "installation.h"

enum { COPY_PATIENCE_MS = 10000 }; /* a start takes some 20 ms */

bool take_turn(const struct _frozen *lent)
{
    for (int i = 0; i < COPY_PATIENCE_MS; i++) {
        const struct _frozen *nobodys = NULL;
        if (__atomic_compare_exchange_n(&PyImport_FrozenModules, &nobodys, lent, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return true;
        usleep(1000);
    }
    complain("another copy of this module does not get Python started");
    return false;
}

void end_turn(void)
{
    __atomic_store_n(&PyImport_FrozenModules, NULL, __ATOMIC_SEQ_CST);
}

/* Where the code of the copies is that have loaded theirs; None while one of them does, NULL before. */
static PyObject *code_of_copies(PyObject *changed)
{
    static const char key[] = "p11tpm";
    PyObject *own = PyInterpreterState_GetDict(PyInterpreterState_Main());
    if (changed && own && PyDict_SetItemString(own, key, changed) != 0)
        PyErr_Clear();
    return own ? PyDict_GetItemString(own, key) : NULL;
}

bool begin_preparing(void)
{
    return !code_of_copies(NULL) && code_of_copies(Py_None);
}

void end_preparing(void)
{
    PyObject *own = PyInterpreterState_GetDict(PyInterpreterState_Main());
    if (own && PyDict_DelItemString(own, "p11tpm") != 0)
        PyErr_Clear();
}

static void refuse_beside(const char *place)
{
    char what[800];
    snprintf(what, sizeof what, "another copy of this module has loaded its code from %s, this one's is in %s", place, PACKAGE);
    complain_and_advise(what);
}

bool begin_loading(void)
{
    for (int i = 0; i < COPY_PATIENCE_MS; i++) {
        PyGILState_STATE gil = PyGILState_Ensure();
        PyObject *before = code_of_copies(NULL);
        bool busy = before == Py_None;
        bool other = before && !busy && strcmp(PyBytes_AsString(before), PACKAGE);
        if (other)
            refuse_beside(PyBytes_AsString(before));
        else if (!busy)
            code_of_copies(Py_None);
        PyGILState_Release(gil);
        if (!busy)
            return !other;
        usleep(1000);
    }
    complain("another copy of this module does not get its code loaded");
    return false;
}

void end_loading(void)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *place = PyBytes_FromString(PACKAGE);
    if (place)
        code_of_copies(place);
    PyErr_Clear();
    Py_XDECREF(place);
    PyGILState_Release(gil);
}
