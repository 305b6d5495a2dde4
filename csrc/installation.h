/* What build.py writes into the module: the paths of this installation, and the byte code that Python starts with. */

#pragma once

#include <Python.h>

/* What Python would otherwise look for (PyConfig), and the standard library's package `encodings` as a directory. */
extern const char HOME[], PREFIX[], EXEC_PREFIX[], EXECUTABLE[], STDLIB[], ENCODINGS[];

/* The directories that Python imports from, of which those from the index PACKAGES on are not the standard library's. */
extern const char *const PATH[];
extern const size_t PATHS, PACKAGES;

/* The package's directory, and the file with its byte code. */
extern const char PACKAGE[], BUNDLE[];

/* The magic number of the Python whose byte code this is: importlib.util.MAGIC_NUMBER. */
extern const long MAGIC;

/* finder.py's byte code, and its size. */
extern const char FINDER[];
extern const size_t FINDER_SIZE;

/* What Python imports before it can be told where to find anything; the last one has no name. */
extern const struct _frozen FIRST_MODULES[];

/* The source that imports p11tpm.entry. */
extern const char LOAD_ENTRY[];
