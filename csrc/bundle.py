"""The file with the byte code of the package, and of all that it can import, that finder.py reads."""

from __future__ import annotations

import ast
import contextlib
import functools
import marshal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import finder

if TYPE_CHECKING:
    from collections.abc import Iterator

NOT_FOR_HOSTS = "cli"
# What codecs are looked up by name, by what is imported.
ENCODINGS = ("ascii", "idna", "latin_1", "utf_16_be", "utf_16_le", "utf_32_be")

# Tells the sources and extension modules that importing the given modules brings in.
TELL = """
import sys
places, names = sys.argv[1].split(":"), sys.argv[2:]
sys.path.extend(places)
before = set(sys.modules)
from importlib import import_module
for name in names:
    try:
        import_module(name)
    except ImportError:
        continue
for name in sorted(set(sys.modules) - before):
    origin = getattr(getattr(sys.modules[name], "__spec__", None), "origin", None) or ""
    if origin.startswith("/"):
        print(name, origin)
"""


def bundled(source: Path, root: Path) -> tuple[str, int, int, bytes]:
    """Return what the bundle says of a source, whose path begins at `root` if it is below it."""
    before = source.stat()  # if the source changes meanwhile, what is read is not taken for the new one
    path, code = str(source), b""
    if source.is_relative_to(root):
        path = str(source.relative_to(root))
        code = compiled(source, 2)  # without docstrings, which nobody reads there; the package has no assert
    elif source.suffix == ".py":
        code = compiled_as_it_is(source)
    return path, before.st_mtime_ns, before.st_size, code


def compiled(source: Path, optimize: int) -> bytes:
    """Return the marshalled byte code of a source."""
    return marshal.dumps(compile(source.read_bytes(), source, "exec", dont_inherit=True, optimize=optimize))


@functools.cache
def compiled_as_it_is(source: Path) -> bytes:
    """Return the marshalled byte code of a source that is not ours."""
    return compiled(source, 0)


def imports(node: ast.AST) -> Iterator[str]:
    """Return the names of modules, and of what may be one, that a program imports, but for those of its types only."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for inner in ast.iter_child_nodes(node):
        yield from imports(inner)


@functools.cache
def brought_in(names: frozenset[str]) -> dict[str, Path]:
    """Return the sources and extension modules, by name, of modules outside of the package and of what they import."""
    packages = ":".join(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))
    command = [sys.executable, "-I", "-S", "-c", TELL, packages, *sorted(names)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: Path(path) for name, _, path in (line.partition(" ") for line in told.splitlines())}


def write_bundle(package: Path, directory: Path) -> Path:
    """Write the file that finder.py reads."""
    sources, wanted = {}, {f"encodings.{name}" for name in ENCODINGS}
    for source in package.rglob("*.py"):
        inner = source.relative_to(package).with_suffix("").parts
        if inner[0] != NOT_FOR_HOSTS:
            sources[".".join(("p11tpm", *inner)).removesuffix(".__init__")] = source
            with contextlib.suppress(SyntaxError):
                wanted.update(imports(ast.parse(source.read_bytes())))
    outside = frozenset(name for name in wanted if name.partition(".")[0] not in {"p11tpm", "_p11tpm"})
    modules = {}
    for name, source in sorted({**sources, **brought_in(outside)}.items()):
        with contextlib.suppress(SyntaxError):  # the import reports it
            modules[name] = bundled(source, package)
    bundle = directory / finder.NAME
    bundle.write_bytes(finder.pack(modules))
    return bundle
