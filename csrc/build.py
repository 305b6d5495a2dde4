"""Build the two shared objects: the extension module p11tpm._native and the PKCS#11 module itself.

    python csrc/build.py [--module PATH] [--package DIRECTORY]

The Python that runs this is the one that the module will start; its paths are compiled in. Nothing is left in the tree
but the extension and byte code, which lie in the package. With --package only the module is built, and it finds its
Python code in DIRECTORY/p11tpm: a copy that somebody wants to try.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import importlib.util
import marshal
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cffi import FFI

import finder
from abi import Abi
from bundle import write_bundle

HERE = Path(__file__).resolve().parent
FLAGS = ["-O2", "-fPIC", "-shared", "-std=gnu11", "-fvisibility=hidden", "-fstack-protector-strong", "-pthread"]
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
LINK = ["-Wl,-z,now,-z,relro,-z,noexecstack"]
# Python cannot be unloaded. Bsymbolic: the C_Sign of another module, loaded RTLD_GLOBAL, must not get
# into our function lists. RPATH, not RUNPATH: this libpython, whatever LD_LIBRARY_PATH says.
LINK_MODULE = ["-Wl,-z,nodelete,-Bsymbolic,--disable-new-dtags"]

DEBIAN = {
    "p11-kit-1": "libp11-kit-dev",
    "p11-kit/pkcs11.h": "libp11-kit-dev",
    "Python.h": f"python{sys.version_info.major}.{sys.version_info.minor}-dev",
    "tss2/tss2_tctildr.h": "libtss2-dev",
    "tss2-tctildr": "libtss2-dev",
    "openssl/bn.h": "libssl-dev",
    "openssl/ec.h": "libssl-dev",
    "crypto": "libssl-dev",
    "gcc": "gcc",
    "pkg-config": "pkg-config",
    "stdio.h": "libc6-dev",
    "pthread.h": "libc6-dev",
}

LOST = re.compile(r"fatal error: (\S+): No such file|cannot find -l(\S+?):?\s|Package (\S+) was not found")

INCLUDES = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>
#pragma GCC visibility push(default)
{headers}
#pragma GCC visibility pop
"""


# Another copy of the module in the process has a _p11tpm of its own, and instances of the modules that import that.
LOAD_ENTRY = b"""
import sys
for name in [name for name in sys.modules if name == "p11tpm.entry.c_memory" or name.startswith("p11tpm.entry")]:
    del sys.modules[name]
import p11tpm.entry
"""


class BuildError(Exception):
    """Something is missing; the text says what to do about it."""


def run(*command: str) -> str:
    """Run a program and give its output; a failure that a Debian package would cure names that package."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(_missing(command[0])) from None
    if done.returncode == 0:
        return done.stdout
    lost = LOST.search(done.stderr)
    if lost:
        raise BuildError(_missing(next(filter(None, lost.groups()))))
    raise BuildError(f"{shlex.join(command)}\n{done.stderr[:4000]}")


def _missing(what: str) -> str:
    package = DEBIAN.get(what)
    return f"{what} is missing" + (f": install Debian's package {package}" if package else "")


def compiler() -> list[str]:
    """Return the C compiler, which $CC may name."""
    return shlex.split(os.environ.get("CC", "gcc"))


def c_bytes(text: bytes) -> str:
    """Return a C string literal of anything."""
    plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-+ "
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text) + '"'


def c_string(text: str | os.PathLike[str]) -> str:
    """Return a C string literal of any path."""
    return c_bytes(os.fsencode(text))


# -- this Python


def libpython() -> Path:
    """Find the shared library of this Python."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    places = [sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LIBPL"), f"{sys.base_prefix}/lib"]
    for place in filter(None, places):
        library = Path(place) / name
        if ".so" in name and library.is_file():
            return library
    raise BuildError(
        f"{sys.base_prefix} has no shared libpython, which the module needs. Use a Python that has one: Debian's "
        "python3 with python3-dev, or one built with --enable-shared (pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared)",
    )


def package_directory() -> Path:
    """Find the package p11tpm as this Python imports it, or else this checkout's."""
    spec = importlib.util.find_spec("p11tpm")
    if spec is None or spec.origin is None:
        return HERE.parent / "p11tpm"
    return Path(spec.origin).resolve().parent


def search_path(package: Path) -> tuple[list[str], int]:
    """Return the directories that the module's Python imports from, and the index of the first that is not its own."""
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    own = [sysconfig.get_path(name, vars=base) for name in ("stdlib", "platstdlib")]
    own.append(sysconfig.get_config_var("DESTSHARED") or f"{own[1]}/lib-dynload")
    rest = [str(package.parent), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    standard = list(dict.fromkeys(own))
    return standard + list(dict.fromkeys(rest)), len(standard)


def python_paths(package: Path) -> str:
    """Return the C definitions of all paths that Python is started with."""
    paths, packages = search_path(package)
    home = sys.base_prefix if sys.base_prefix == sys.base_exec_prefix else f"{sys.base_prefix}:{sys.base_exec_prefix}"
    return "\n".join(
        [
            f"#define HOME {c_string(home)}",
            f"#define PREFIX {c_string(sys.base_prefix)}",
            f"#define EXEC_PREFIX {c_string(sys.base_exec_prefix)}",
            f"#define EXECUTABLE {c_string(sys.executable)}",
            f"#define STDLIB {c_string(sysconfig.get_path('stdlib'))}",
            f"static const char *const PATH[] = {{ {', '.join(map(c_string, paths))} }};",
            f"enum {{ PACKAGES = {packages}, PATHS = {len(paths)} }};",
            f"#define PACKAGE {c_string(package)}",
            f"#define BUNDLE {c_string(finder.NAME)}",
            "",
        ],
    )


def finder_code() -> str:
    """Return the C definitions of finder.py's byte code and of the Python that it is for."""
    source = Path(finder.__file__)
    code = marshal.dumps(compile(source.read_bytes(), f"p11tpm/{source.name}", "exec", dont_inherit=True))
    magic = int.from_bytes(importlib.util.MAGIC_NUMBER, "little")
    return f"#define MAGIC {magic}L\nstatic const char FINDER[] = {c_bytes(code)};\n"


def first_code() -> str:
    """Return the C definitions of the byte code of what Python imports before it can be told where to find anything."""
    package = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix})) / "encodings"
    lines = []
    for name, file in (("ENCODINGS", "__init__"), ("ENCODINGS_ALIASES", "aliases"), ("ENCODINGS_UTF_8", "utf_8")):
        source = package / f"{file}.py"
        code = marshal.dumps(compile(source.read_bytes(), source, "exec", dont_inherit=True, optimize=2))
        lines.append(f"static const unsigned char {name}[] = {c_bytes(code)};\n")
    return "".join(lines)


def commands(package: Path, effect: str) -> str:
    """Return the codes, as a C list, of the TPM commands that p11tpm/tpm/command.py declares to have an effect.

    The file is read and not imported, since its package needs what is built here.
    """
    tree = ast.parse((package / "tpm" / "command.py").read_bytes())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Command"]
    having = [call for call in calls if effect in {keyword.arg for keyword in call.keywords}]
    return ",".join(ast.unparse(call.args[1]) for call in having)


# -- the two


def compile_(source: Path, *arguments: str) -> Path:
    """Compile and link one C file and give the shared object."""
    built = source.with_suffix(".so")
    include = ["-I", str(HERE), "-I", sysconfig.get_path("include"), "-I", sysconfig.get_path("platinclude")]
    run(*compiler(), *FLAGS, *WARNINGS, *include, str(source), "-o", str(built), *LINK, *arguments)
    return built


def place(built: Path, target: Path, mode: int = 0o755) -> Path:
    """Put a file where it belongs, in one step: programs may be running the old one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as new:
        new.write(built.read_bytes())
    Path(new.name).chmod(mode)
    return Path(new.name).replace(target)


def emit(ffi: FFI, source: Path) -> Path:
    """Write what cffi generates to `source`."""
    ffi.emit_c_code(str(source))
    return source


def headers(include: list[str], directory: Path) -> tuple[str, str]:
    """Return the C text that includes the header of PKCS#11, with our additions if it needs them, and its expansion."""
    text = "#include <p11-kit/pkcs11.h>"
    if "C_GetInterfaceList" not in preprocess(text, include, directory):
        text += f"\n#include {c_string(HERE / 'pkcs11_3_0.h')}"
    return text, preprocess(text, include, directory)


def preprocess(text: str, include: list[str], directory: Path) -> str:
    """Expand a piece of C, without what pycparser does not know."""
    source = directory / "headers.c"
    source.write_text(text)
    return run(*compiler(), "-E", "-P", "-DCRYPTOKI_COMPAT", "-D__attribute__(x)=", *include, str(source))


def build_module(package: Path, directory: Path) -> Path:
    """Build the PKCS#11 module for the code in `package`."""
    library = libpython()
    include = shlex.split(run("pkg-config", "--cflags", "p11-kit-1"))
    header, expanded = headers(include, directory)
    abi = Abi(expanded)
    exports = directory / "exports.map"
    exports.write_text(abi.exports)
    ffi = FFI()
    ffi.cdef(abi.cdef)
    ffi.embedding_api("")
    ffi.embedding_init_code("pass")
    code = first_code() + finder_code() + f"static const char LOAD_ENTRY[] = {c_bytes(LOAD_ENTRY)};\n"
    sources = ("root", "syslog", "complain", "origin", "copies", "wiping", "start", "fork", "interface")
    by_hand = "\n".join(f'#include "{name}.c"' for name in sources)
    ffi.set_source(
        "_p11tpm",
        "\n".join([INCLUDES.format(headers=header), python_paths(package), code, abi.prototypes, by_hand, abi.stubs]),
        compiler_verbose=0,
    )
    source = emit(ffi, directory / "module.c")
    more = [f"-Wl,--version-script={exports}", f"-Wl,-rpath,{library.parent}"]
    return compile_(source, "-DCRYPTOKI_COMPAT", *include, *LINK_MODULE, *more, str(library), "-ldl")


def build_native(package: Path, module: Path, directory: Path) -> Path:
    """Build the extension module p11tpm._native, which knows the TPM's commands and where the module will be."""
    ffi = FFI()
    ffi.cdef((HERE / "native.cdef.h").read_text())
    ffi.set_source("p11tpm._native", '#include "native.c"', compiler_verbose=0)
    source = emit(ffi, directory / "extension.c")
    known = [f"-DMODULE_PATH={c_string(module)}"]
    known += [f"-D{effect.upper()}_HANDLE={commands(package, effect)}" for effect in ("makes", "ends")]
    return compile_(source, *known, "-ltss2-tctildr", "-lcrypto")


def build(module: Path, copy: Path | None) -> list[Path]:
    """Build what was asked for and give the files; nothing is replaced unless all of it could be built."""
    with tempfile.TemporaryDirectory(prefix="p11tpm-build-") as temporary, ThreadPoolExecutor() as pool:
        package = copy or package_directory()
        built_module = pool.submit(build_module, package, Path(temporary))
        if copy is not None:
            return [place(built_module.result(), module)]
        built_native = pool.submit(build_native, package, module, Path(temporary))
        compileall.compile_dir(package, quiet=1)  # the module itself never writes bytecode
        bundle = write_bundle(package, Path(temporary))
        native = package / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
        built = [(built_native.result(), native, 0o755), (built_module.result(), module, 0o755)]
        built.append((bundle, package / bundle.name, 0o644))
        return [place(*one) for one in built]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--module",
        type=Path,
        default=Path(sys.prefix) / "lib" / "pkcs11" / "p11tpm.so",
        help="where the PKCS#11 module is put (default: %(default)s)",
    )
    parser.add_argument("--package", type=Path, help="a directory with a copy of the package: build the module alone")
    arguments = parser.parse_args()
    module = Path(os.path.abspath(arguments.module))  # noqa: PTH100 - links stay: ssh-agent looks at them itself
    package = arguments.package.resolve() / "p11tpm" if arguments.package else None
    if shutil.which(compiler()[0]) is None:
        sys.stderr.write(f"build.py: {_missing(compiler()[0])}\n")
        return 1
    try:
        for built in build(module, package):
            sys.stdout.buffer.write(b"Built " + os.fsencode(built) + b"\n")
    except BuildError as error:
        sys.stderr.write(f"build.py: {error}\n")  # stderr takes any path
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
