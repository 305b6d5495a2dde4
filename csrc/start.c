/*
 * Python in somebody else's process: started by the first C_Initialize, never before and never ended.
 *
 * The stubs (generated) call Python only while `ready`; a result counts only if it carries FINISHED, because cffi makes
 * every function return 0 = CKR_OK when Python does not start, when a function has no code or when it raises.
 *
 * Lock order: `start_lock`, then the GIL. A thread of a Python program may come here with the GIL: it lets go of it first.
 */

#include "start.h"

#include <marshal.h>

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "complain.h"
#include "copies.h"
#include "fork.h"
#include "installation.h"
#include "origin.h"
#include "wiping.h"

pthread_mutex_t start_lock = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
atomic_int state = NEW;
atomic_bool ready;

/* Copies the beginning of Python's version. Python 3.11 writes it anew at each call, beginning with an empty text, which another
 * thread may do just now. */
static void copy_version(char *copy, size_t size)
{
    do
        snprintf(copy, size, "%s", Py_GetVersion());
    while (!*copy);
}

/* Whether the Python that the linker bound us to is of the version that this module was built for. In a Python program it is
 * the program's; one of another version would hang, so nothing else of it may be called. */
static bool is_our_python(void)
{
    char wanted[16], version[32], what[200];
    copy_version(version, sizeof version);
    int length = snprintf(wanted, sizeof wanted, "%d.%d.", PY_MAJOR_VERSION, PY_MINOR_VERSION);
    if (strncmp(version, wanted, (size_t)length) == 0)
        return true;
    snprintf(what, sizeof what, "this program is Python %.*s, but the module was built for Python %d.%d",
             (int)strcspn(version, " "), version, PY_MAJOR_VERSION, PY_MINOR_VERSION);
    complain_and_advise(what);
    return false;
}

bool holds_gil(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyThreadState *current = PyThreadState_GetUnchecked();
#else
    PyThreadState *current = _PyThreadState_UncheckedGet();
#endif
    /* PyGILState_Check alone says yes whenever there are sub-interpreters */
    return PyGILState_Check() && current && current == PyGILState_GetThisThreadState();
}

static PyThreadState *let_go_of_gil(void)
{
    return Py_IsInitialized() && holds_gil() ? PyEval_SaveThread() : NULL;
}

static void take_gil_back(PyThreadState *held)
{
    if (held)
        PyEval_RestoreThread(held);
}

/* Hosts load us with RTLD_LOCAL, and libpython with us, but the extension modules of the standard library want its symbols.
 * A program that is Python itself has them in the open already, and then this does nothing. */
static void promote_libpython(void)
{
    Dl_info library;
    if (dladdr((void *)Py_IsInitialized, &library) && library.dli_fname)
        (void)dlopen(library.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}

static PyStatus add_search_paths(PyConfig *config)
{
    PyStatus status = PyStatus_Ok();
    config->module_search_paths_set = 1;
    for (size_t i = 0; i < PATHS && !PyStatus_Exception(status); i++) {
        wchar_t *path = Py_DecodeLocale(PATH[i], NULL);
        status = path ? PyWideStringList_Append(&config->module_search_paths, path) : PyStatus_NoMemory();
        PyMem_RawFree(path);
    }
    return status;
}

/* Every path is told: what Python would find by itself comes through $PATH, the current directory and the environment. */
static PyStatus set_paths(PyConfig *config)
{
    struct { wchar_t **field; const char *value; } const told[] = {
        { &config->program_name, EXECUTABLE },    { &config->executable, EXECUTABLE },
        { &config->base_executable, EXECUTABLE }, { &config->home, HOME },
        { &config->prefix, PREFIX },              { &config->base_prefix, PREFIX },
        { &config->exec_prefix, EXEC_PREFIX },    { &config->base_exec_prefix, EXEC_PREFIX },
        { &config->stdlib_dir, STDLIB },
    };
    PyStatus status = PyStatus_Ok();
    for (size_t i = 0; i < sizeof told / sizeof *told && !PyStatus_Exception(status); i++)
        status = PyConfig_SetBytesString(config, told[i].field, told[i].value);
    return PyStatus_Exception(status) ? status : add_search_paths(config);
}

/* What Python imports before use_bundle() can help, as frozen modules: the search for them takes longer. */
static bool lend_first_modules(void)
{
    static const struct _frozen none[] = { { 0 } };
    char version[32];
    copy_version(version, sizeof version);
    size_t length = strlen(PY_VERSION);
    bool fits = strncmp(version, PY_VERSION, length) == 0 && version[length] == ' '; /* no other release has quite this code */
    return take_turn(fits ? FIRST_MODULES : none);
}

/* A frozen package has no directory, but most of this one's modules are in one. */
static void end_lending(void)
{
    PyObject *encodings = PyImport_FrozenModules == FIRST_MODULES ? PyImport_ImportModule("encodings") : NULL;
    PyObject *path = encodings ? Py_BuildValue("[s]", ENCODINGS) : NULL;
    if (path && PyObject_SetAttrString(encodings, "__path__", path) != 0)
        PyErr_Clear();
    Py_XDECREF(path);
    Py_XDECREF(encodings);
    end_turn();
}

static PyStatus initialize(void)
{
    PyPreConfig before;
    PyConfig config;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1; /* whatever the host's locale is */
#ifdef __SANITIZE_ADDRESS__
    before.allocator = PYMEM_ALLOCATOR_MALLOC; /* the sanitizer does not see the ends of what Python's own one gives */
#endif
    PyStatus status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status))
        return status;
    prepare_wiping();
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.install_signal_handlers = 0;
    config.write_bytecode = 0;
    config.configure_c_stdio = 0;
    status = set_paths(&config);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    return status;
}

/* Descriptors 0, 1 and 2 are the host's: ssh-pkcs11-helper speaks its protocol on them, and a daemon may have any socket there.
 * Without a stream, Python's own hooks and cffi's write nothing. */
static void take_streams_away(void)
{
    static const char *const streams[] = { "stdin", "__stdin__", "stdout", "__stdout__", "stderr", "__stderr__" };
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
        PySys_SetObject(streams[i], Py_None);
}

/* Says that the code does not load, and the exception that is why: cffi would print that to stderr. */
static void complain_of_code(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *text = value ? PyObject_Str(value) : NULL;
    const char *why = text ? PyUnicode_AsUTF8(text) : NULL;
    const char *what = type ? ((PyTypeObject *)type)->tp_name : "some functions have no code";
    complain("the Python code of the module does not load; is the installation complete? (%s: %s%s%s)", PATH[PACKAGES], what,
             why && *why ? ": " : "", why ? why : "");
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

/* Our code in one file: csrc/finder.py. If there is no such file, Python finds the code on the paths, but only by this finder. */
static bool use_bundle(void)
{
    static PyMethodDef check = { "trusted_path", trusted_path, METH_O, NULL };
    static PyMethodDef change = { "changed_files", changed_files, METH_O, NULL };
    static PyMethodDef release = { "release_bundle", release_bundle, METH_NOARGS, NULL };
    bool fits = PyImport_GetMagicNumber() == MAGIC;
    PyObject *code = fits ? PyMarshal_ReadObjectFromString(FINDER, FINDER_SIZE) : NULL;
    PyObject *finder = code ? PyImport_ExecCodeModule("_p11tpm_finder", code) : NULL;
    PyObject *package = finder ? PyUnicode_DecodeFSDefault(PACKAGE) : NULL;
    PyObject *trusted = package ? PyCFunction_New(&check, NULL) : NULL;
    PyObject *changed = trusted ? PyCFunction_New(&change, NULL) : NULL;
    PyObject *released = changed ? PyCFunction_New(&release, NULL) : NULL;
    PyObject *bundle = released ? map_bundle() : NULL;
    PyObject *done = released && !PyErr_Occurred()
        ? PyObject_CallMethod(finder, "install", "OOOOO", package, bundle ? bundle : Py_None, trusted, changed, released)
        : NULL;
    if (!done)
        complain_of_code();
    Py_XDECREF(done);
    Py_XDECREF(bundle);
    Py_XDECREF(released);
    Py_XDECREF(changed);
    Py_XDECREF(trusted);
    Py_XDECREF(package);
    Py_XDECREF(finder);
    Py_XDECREF(code);
    return done != NULL;
}

/* Python aborts when memory ends during its first steps; later it has a MemoryError for that. */
static bool has_memory(void)
{
    size_t size = 4u << 20;
    void *room = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return room != MAP_FAILED && munmap(room, size) == 0;
}

static bool start_python(void)
{
    PyStatus status = initialize();
    if (PyStatus_Exception(status)) {
        complain("Python does not start: %s", status.err_msg ? status.err_msg : "no reason given");
        end_turn();
        return false;
    }
    bool alone = begin_preparing();
    take_streams_away();
    end_lending();
    PyGC_Disable();
    bool found = use_bundle();
    if (alone && found)
        end_preparing();
    PyEval_SaveThread();
    return found;
}

/* Modules are not garbage: while they were loaded, there was nothing to collect, and they need not be looked at later. */
static void resume_collection(void)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *collector = PyImport_ImportModule("gc");
    PyObject *done = collector ? PyObject_CallMethod(collector, "freeze", NULL) : NULL;
    if (!done)
        PyErr_Clear();
    Py_XDECREF(done);
    Py_XDECREF(collector);
    PyGC_Enable();
    PyGILState_Release(gil);
}

/* A program that is Python keeps its own path; ours comes after it. */
static bool extend_search_path(void)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *paths = PySys_GetObject("path");
    int failed = !paths || !PyList_Check(paths);
    for (size_t i = PACKAGES; i < PATHS && !failed; i++) {
        PyObject *path = PyUnicode_DecodeFSDefault(PATH[i]);
        int there = path ? PySequence_Contains(paths, path) : -1;
        failed = there < 0 || (there == 0 && PyList_Append(paths, path) < 0);
        Py_XDECREF(path);
    }
    if (failed)
        PyErr_Clear();
    PyGILState_Release(gil);
    return !failed;
}

/* A host that is Python ends its Python, perhaps before it lets go of us. */
static void python_ends(void)
{
    ready = false;
    state = FAILED;
}

/* Makes Python run; `ours`: this copy of the module started it. */
static bool ensure_python(bool *ours)
{
    *ours = false;
    if (!Py_IsInitialized()) {
        if (!lend_first_modules())
            return false;
        *ours = !Py_IsInitialized(); /* another copy may have started it meanwhile */
        if (*ours)
            return start_python();
        end_turn();
    }
    return extend_search_path();
}

/* cffi without the code: what it needs itself is imported before, so that it has no error to print. */
static bool start_cffi(void)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *backend = PyImport_ImportModule("_cffi_backend");
    bool found = backend != NULL;
    if (!found)
        complain_of_code();
    Py_XDECREF(backend);
    PyGILState_Release(gil);
    return found && start_generated() == 0;
}

static bool load_entry(void)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *names = PyDict_New();
    PyObject *done = names ? PyRun_String(LOAD_ENTRY, Py_file_input, names, names) : NULL;
    /* cffi prints to stderr when it is to call what has no code */
    bool loaded = done && has_attached() && py_attached() == (FINISHED | FUNCTIONS);
    if (!loaded)
        complain_of_code();
    Py_XDECREF(done);
    Py_XDECREF(names);
    PyGILState_Release(gil);
    return loaded;
}

static bool load_code(void)
{
    if (!begin_loading())
        return false;
    bool loaded = start_cffi() && load_entry();
    end_loading();
    return loaded;
}

/* Once a process: neither Python nor cffi can be started again when they have failed. */
static CK_RV start(void)
{
    if (state == STARTED)
        return CKR_OK;
    if (state != NEW)
        return CKR_GENERAL_ERROR;
    if (!has_memory())
        return CKR_HOST_MEMORY;
    if (!trusts_paths())
        return CKR_GENERAL_ERROR;
    state = STARTING;
    promote_libpython();
    bool ours;
    if (!ensure_python(&ours) || !load_code()) {
        state = FAILED;
    } else {
        if (ours) {
            resume_collection();
            wipe_what_is_freed();
        }
        Py_AtExit(python_ends);
        state = STARTED;
    }
    return state == STARTED ? CKR_OK : CKR_GENERAL_ERROR;
}

CK_RV C_Initialize(void *arguments)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    CK_RV rv = CKR_GENERAL_ERROR;
    if (!is_our_python())
        return rv;
    int cancel = refuse_cancel();
    pthread_once(&once, watch_forks);
    PyThreadState *held = let_go_of_gil();
    /* EDEADLK: something that Python loads (an engine of OpenSSL) came back here */
    if (pthread_mutex_lock(&start_lock) == 0) {
        rv = start();
        if (rv == CKR_OK)
            rv = result(py_C_Initialize(arguments));
        if (rv == CKR_OK)
            ready = true;
        pthread_mutex_unlock(&start_lock);
    }
    take_gil_back(held);
    allow_cancel(cancel);
    return rv;
}

CK_RV C_Finalize(void *reserved)
{
    CK_RV rv = CKR_GENERAL_ERROR;
    if (!ready)
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    int cancel = refuse_cancel();
    PyThreadState *held = let_go_of_gil();
    if (pthread_mutex_lock(&start_lock) == 0) {
        rv = ready ? result(py_C_Finalize(reserved)) : CKR_CRYPTOKI_NOT_INITIALIZED;
        if (rv == CKR_OK || rv == CKR_CRYPTOKI_NOT_INITIALIZED)
            ready = false;
        pthread_mutex_unlock(&start_lock);
        wipe_stack();
    }
    take_gil_back(held);
    allow_cancel(cancel);
    return rv;
}
