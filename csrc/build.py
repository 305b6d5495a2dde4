"""Build the two shared objects: the extension module p11tpm._native and the PKCS#11 module itself.

    python csrc/build.py [--module PATH] [--package DIRECTORY]
    python csrc/build.py --check

The Python that runs this is the one that the module will start; its paths are compiled in. Nothing is left in the tree
but the extension and byte code, which lie in the package. With --package only the module is built, and it finds its
Python code in DIRECTORY/p11tpm: a copy that somebody wants to try. With --check nothing is replaced, and a warning of
the compiler is an error; otherwise it is not, because another compiler may have warnings that this one does not have.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import importlib.util
import marshal
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from cffi import FFI

import finder
from abi import Abi
from bundle import write_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HERE = Path(__file__).resolve().parent
# What both shared objects are made of, by the names of files here; the rest is generated.
BOTH = ("root", "syslog_message")
MODULE = (*BOTH, "complain", "copies", "fork", "interface", "origin", "start", "wiping")
NATIVE = (
    *BOTH, "connection", "descriptor", "device", "ecdh", "exit", "hash", "idle_timer", "keeper", "secret", "swtpm",
    "tabrmd", "tctildr",
)  # fmt: skip

# _FILE_OFFSET_BITS: as Python.h has it, since files with and without Python.h exchange a struct stat.
FLAGS = ["-O2", "-fPIC", "-std=gnu11", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", "-fvisibility=hidden", "-pthread"]
HARDENING = ["-fstack-protector-strong", "-fstack-clash-protection"]
FORTIFY = ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"]  # a C library that does not know 3 takes it for 2
BRANCHES = {"x86_64": ["-fcf-protection"], "aarch64": ["-mbranch-protection=standard"]}
WARNINGS = ["-Wall", "-Wextra", "-Wmissing-prototypes", "-Wstrict-prototypes"]
OF_GENERATED = ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-missing-prototypes"]
STRICT = ["-Werror", "-Wno-error=cpp"]  # cpp: the C library may say that it does not know FORTIFY's 3
LINK = ["-Wl,-z,now,-z,relro,-z,noexecstack"]
# Python cannot be unloaded. Bsymbolic: the C_Sign of another module, loaded RTLD_GLOBAL, must not get
# into our function lists. RPATH, not RUNPATH: this libpython, whatever LD_LIBRARY_PATH says.
LINK_MODULE = ["-Wl,-z,nodelete,-Bsymbolic,--disable-new-dtags"]

# Debian's package of a header or of all in its directory, of a library, a program or a package of pkg-config.
DEBIAN = {
    "p11-kit-1": "libp11-kit-dev",
    "p11-kit": "libp11-kit-dev",
    "Python.h": f"python{sys.version_info.major}.{sys.version_info.minor}-dev",
    "tss2": "libtss2-dev",
    "tss2-tctildr": "libtss2-dev",
    "openssl": "libssl-dev",
    "crypto": "libssl-dev",
    "gcc": "gcc",
    "pkg-config": "pkg-config",
}

LOST = re.compile(r"fatal error: (\S+): No such file|cannot find -l(\S+?):?\s|Package (\S+) was not found")


# Another copy of the module in the process has a _p11tpm of its own, and instances of the modules that import that.
LOAD_ENTRY = b"""
import sys
for name in [name for name in sys.modules if name.startswith("p11tpm.entry")]:
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
    package = DEBIAN.get(what.partition("/")[0], "libc6-dev" if what.endswith(".h") else None)
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


def c_definitions(texts: Mapping[str, str | os.PathLike[str]]) -> str:
    """Return the C definitions of strings by their names."""
    return "".join(f"const char {name}[] = {c_string(text)};\n" for name, text in texts.items())


def python_paths(package: Path) -> str:
    """Return the C definitions of all paths that Python is started with."""
    paths, packages = search_path(package)
    home = sys.base_prefix if sys.base_prefix == sys.base_exec_prefix else f"{sys.base_prefix}:{sys.base_exec_prefix}"
    library = sysconfig.get_path("stdlib")
    return c_definitions(
        {
            "HOME": home,
            "PREFIX": sys.base_prefix,
            "EXEC_PREFIX": sys.base_exec_prefix,
            "EXECUTABLE": sys.executable,
            "STDLIB": library,
            "ENCODINGS": f"{library}/encodings",
            "PACKAGE": package,
            "BUNDLE": package / finder.NAME,
        },
    ) + (
        f"const char *const PATH[] = {{ {', '.join(map(c_string, paths))} }};\n"
        f"const size_t PACKAGES = {packages}, PATHS = {len(paths)};\n"
    )


def finder_code() -> str:
    """Return the C definitions of finder.py's byte code and of the Python that it is for."""
    source = Path(finder.__file__)
    code = marshal.dumps(compile(source.read_bytes(), f"p11tpm/{source.name}", "exec", dont_inherit=True))
    magic = int.from_bytes(importlib.util.MAGIC_NUMBER, "little")
    numbers = f"const long MAGIC = {magic};\nconst size_t FINDER_SIZE = {len(code)};\n"
    return f"{numbers}const char FINDER[] = {c_bytes(code)};\n"


def first_code() -> str:
    """Return the C definitions of the byte code of what Python imports before it can be told where to find anything."""
    package = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix})) / "encodings"
    rows = []
    for name, file in (("encodings", "__init__"), ("encodings.aliases", "aliases"), ("encodings.utf_8", "utf_8")):
        source = package / f"{file}.py"
        code = marshal.dumps(compile(source.read_bytes(), source, "exec", dont_inherit=True, optimize=2))
        text, is_package = f"(const unsigned char *){c_bytes(code)}", int(file == "__init__")
        rows.append(f'{{ .name = "{name}", .code = {text}, .size = {len(code)}, .is_package = {is_package} }},\n')
    return f"const struct _frozen FIRST_MODULES[] = {{\n{''.join(rows)}{{ 0 }} }};\n"


def installation(package: Path) -> str:
    """Return the C file with all that installation.h declares."""
    code = f"const char LOAD_ENTRY[] = {c_bytes(LOAD_ENTRY)};\n" + finder_code() + first_code()
    return '#include "installation.h"\n' + python_paths(package) + code


def commands(package: Path, effect: str) -> str:
    """Return the codes, as a C list, of the TPM commands that p11tpm/tpm/command.py declares to have an effect.

    The file is read and not imported, since its package needs what is built here.
    """
    tree = ast.parse((package / "tpm" / "command.py").read_bytes())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Command"]
    having = [call for call in calls if effect in {keyword.arg for keyword in call.keywords}]
    return ",".join(ast.unparse(call.args[1]) for call in having)


# -- the two


def hardening() -> list[str]:
    """Return the flags that make memory errors harder to exploit; the sanitizers see more of them without FORTIFY."""
    sanitizes = any(flag.startswith("-fsanitize") for flag in compiler())
    return [*HARDENING, *BRANCHES.get(platform.machine(), []), *([] if sanitizes else FORTIFY)]


class SharedObject:
    """A shared object that is built in `directory`, of files from here by their names and of generated ones.

    With `strict`, a warning is an error.
    """

    def __init__(self, directory: Path, names: Iterable[str], *, strict: bool) -> None:
        directory.mkdir()
        self._directory = directory
        self._sources = [HERE / f"{name}.c" for name in names]
        self._flags = [*FLAGS, *hardening(), *WARNINGS, *(STRICT if strict else [])]
        self._include = [f"-iquote{HERE}", f"-iquote{directory}"]
        self._include += [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]

    def generate(self, name: str, text: str) -> None:
        """Add a generated C file; a header is not compiled."""
        path = self._directory / name
        path.write_text(text)
        if path.suffix == ".c":
            self._sources.append(path)

    def generate_by_cffi(self, ffi: FFI) -> None:
        """Add the C file of cffi."""
        path = self._directory / "cffi.c"
        ffi.emit_c_code(str(path))
        self._sources.append(path)

    def build(self, options: list[str], *link: str) -> Path:
        """Compile each file alone, several at a time, link them, and give the shared object."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda source: self._compile(source, options), reversed(self._sources)))
        built = self._directory / "built.so"
        run(*compiler(), "-shared", "-pthread", *map(str, objects), "-o", str(built), *LINK, *link)
        return built

    def _compile(self, source: Path, options: list[str]) -> Path:
        target = self._directory / f"{source.stem}.o"
        quiet = [] if source.parent == HERE else OF_GENERATED
        run(*compiler(), *self._flags, *quiet, *self._include, *options, "-c", str(source), "-o", str(target))
        return target


def place(built: Path, target: Path, mode: int = 0o755) -> Path:
    """Put a file where it belongs, in one step: programs may be running the old one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as new:
        new.write(built.read_bytes())
    Path(new.name).chmod(mode)
    return Path(new.name).replace(target)


def headers(include: list[str], directory: Path) -> tuple[str, str]:
    """Return the C text that includes the header of PKCS#11, with our additions if it needs them, and its expansion."""
    text = "#include <p11-kit/pkcs11.h>"
    if "C_GetInterfaceList" not in preprocess(text, include, directory):
        text += '\n#include "pkcs11_3_0.h"'
    return text, preprocess(text, include, directory)


def preprocess(text: str, include: list[str], directory: Path) -> str:
    """Expand a piece of C, without what pycparser does not know."""
    source = directory / "headers.c"
    source.write_text(text)
    flags = ["-E", "-P", "-DCRYPTOKI_COMPAT", "-D__attribute__(x)=", f"-iquote{HERE}"]
    return run(*compiler(), *flags, *include, str(source))


def build_module(package: Path, directory: Path, *, strict: bool) -> Path:
    """Build the PKCS#11 module for the code in `package`."""
    library = libpython()
    include = shlex.split(run("pkg-config", "--cflags", "p11-kit-1"))
    module = SharedObject(directory, MODULE, strict=strict)
    abi = Abi(*headers(include, directory))
    exports = directory / "exports.map"
    exports.write_text(abi.exports)
    module.generate("abi.h", abi.header)
    module.generate("abi.c", abi.source)
    module.generate("installation.c", installation(package))
    ffi = FFI()
    ffi.cdef(abi.cdef)
    ffi.embedding_api("")
    ffi.embedding_init_code("pass")
    ffi.set_source("_p11tpm", abi.python_source, compiler_verbose=0)
    module.generate_by_cffi(ffi)
    more = [f"-Wl,--version-script={exports}", f"-Wl,-rpath,{library.parent}"]
    return module.build(include, *LINK_MODULE, *more, str(library), "-ldl")


def build_native(package: Path, path: Path, directory: Path, *, strict: bool) -> Path:
    """Build the extension module p11tpm._native, which knows the TPM's commands and the module's path."""
    native = SharedObject(directory, NATIVE, strict=strict)
    ffi = FFI()
    ffi.cdef((HERE / "native.cdef.h").read_text())
    source = f'#include "native.h"\nstatic const char MODULE_PATH[] = {c_string(path)};\n'
    ffi.set_source("p11tpm._native", source, compiler_verbose=0)
    native.generate_by_cffi(ffi)
    known = [f"-D{effect.upper()}_HANDLE={commands(package, effect)}" for effect in ("makes", "ends")]
    return native.build(known, "-ltss2-tctildr", "-lcrypto")


def build(module: Path, copy: Path | None, *, check: bool) -> list[Path]:
    """Build what was asked for and give the files; nothing is replaced unless all could be built, or by a check."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")  # before there are threads, which get None until a first call ends
    with tempfile.TemporaryDirectory(prefix="p11tpm-build-") as temporary, ThreadPoolExecutor() as pool:
        package, directory = copy or package_directory(), Path(temporary)
        built_module = pool.submit(build_module, package, directory / "module", strict=check)
        if copy is not None:
            return [place(built_module.result(), module)]
        built_native = pool.submit(build_native, package, module, directory / "native", strict=check)
        if check:
            built_native.result()
            built_module.result()
            return []
        compileall.compile_dir(package, quiet=1)  # the module itself never writes bytecode
        native = package / f"_native{suffix}"
        built = [(built_native.result(), native), (built_module.result(), module)]
        placed = [place(*one) for one in built]
        bundle = write_bundle(package, directory)
        return [*placed, place(bundle, package / bundle.name, 0o644)]


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
    parser.add_argument("--check", action="store_true", help="only compile the C code; a warning is an error")
    arguments = parser.parse_args()
    module = Path(os.path.abspath(arguments.module))  # noqa: PTH100 - links stay: ssh-agent looks at them itself
    package = arguments.package.resolve() / "p11tpm" if arguments.package else None
    if shutil.which(compiler()[0]) is None:
        sys.stderr.write(f"build.py: {_missing(compiler()[0])}\n")
        return 1
    try:
        for built in build(module, package, check=arguments.check):
            sys.stdout.buffer.write(b"Built " + os.fsencode(built) + b"\n")
    except BuildError as error:
        sys.stderr.write(f"build.py: {error}\n")  # stderr takes any path
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
