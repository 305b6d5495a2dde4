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
# Each is loaded with all that it needs: by every start, by logins, by signatures.
GROUPS = ("p11tpm.entry", "p11tpm.core.token_tpm", "p11tpm.operation.sign")
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


class TypesLeftOut(ast.NodeTransformer):
    """Leaves out of a program what nothing reads when it runs: annotations, and what they alone need."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        """Leave out the type of an argument."""
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Leave out the type of a result."""
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        """Leave out the type of a variable."""
        return ast.Assign([node.target], node.value) if node.value else ast.Pass()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        """Leave out what says how annotations are read."""
        return ast.Pass() if node.module == "__future__" else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Leave out imports for types, but not what there is instead of them when the program runs."""
        self.generic_visit(node)
        return (node.orelse or ast.Pass()) if is_for_types(node) else node


def is_for_types(node: ast.AST) -> bool:
    """Return whether it is a block of imports for types only."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def compiled(source: Path) -> bytes:
    """Return the marshalled byte code of a source of ours, without docstrings; the package has no assert."""
    program = ast.fix_missing_locations(TypesLeftOut().visit(ast.parse(source.read_bytes(), source)))
    return marshal.dumps(compile(program, source, "exec", dont_inherit=True, optimize=2))


@functools.cache
def compiled_as_it_is(source: Path) -> bytes:
    """Return the marshalled byte code of a source that is not ours."""
    return marshal.dumps(compile(source.read_bytes(), source, "exec", dont_inherit=True, optimize=0))


def imports(node: ast.AST, *, later: bool = True) -> Iterator[str]:
    """Return the names of modules, and of what may be one, that a program imports, but for those of its types only.

    `later`: also those that its functions import, and those that are a `Late` (p11tpm/host/imports.py).
    """
    if isinstance(node, ast.If) and is_for_types(node):
        for other in node.orelse:
            yield from imports(other, later=later)
        return
    if isinstance(node, ast.FunctionDef) and not later:
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if later and isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Late":
        yield from (name.value for name in node.args if isinstance(name, ast.Constant) and isinstance(name.value, str))
    if isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for inner in ast.iter_child_nodes(node):
        yield from imports(inner, later=later)


def in_order(name: str, sources: dict[str, Path], done: dict[str, bool]) -> dict[str, bool]:
    """Add to `done` the modules that one needs and itself, in the order in which they end loading (True)."""
    if name not in done and name in sources:
        done[name] = False
        in_order(name.rpartition(".")[0], sources, done)
        with contextlib.suppress(SyntaxError):  # the import reports it
            for imported in imports(ast.parse(sources[name].read_bytes()), later=False):
                in_order(imported, sources, done)
        del done[name]
        done[name] = True
    return done


def groups(sources: dict[str, Path]) -> list[list[str]]:
    """Return the modules of each of GROUPS, without those that every start has loaded."""
    first = in_order(GROUPS[0], sources, {})
    rest = [[name for name in in_order(last, sources, {}) if name not in first] for last in GROUPS[1:]]
    return [group for group in ([*first], *rest) if group]


@functools.cache
def brought_in(names: frozenset[str]) -> dict[str, Path]:
    """Return the sources and extension modules, by name, of modules outside of the package and of what they import."""
    packages = ":".join(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))
    command = [sys.executable, "-I", "-S", "-c", TELL, packages, *sorted(names)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: Path(path) for name, _, path in (line.partition(" ") for line in told.splitlines())}


def write_bundle(package: Path, directory: Path) -> Path:
    """Write the file that finder.py reads; a package that is to find its extension module there has it already."""
    sources, wanted = dict[str, Path](), {f"encodings.{name}" for name in ENCODINGS}
    native = package / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    if native.exists():
        sources["p11tpm._native"] = native
    for source in package.rglob("*.py"):
        inner = source.relative_to(package).with_suffix("").parts
        if inner[0] != NOT_FOR_HOSTS:
            sources[".".join(("p11tpm", *inner)).removesuffix(".__init__")] = source
            with contextlib.suppress(SyntaxError):
                wanted.update(imports(ast.parse(source.read_bytes())))
    outside = frozenset(name for name in wanted if name.partition(".")[0] not in {"p11tpm", "_p11tpm"})
    return write({**sources, **brought_in(outside)}, package, directory / finder.NAME)


def write(sources: dict[str, Path], package: Path, bundle: Path) -> Path:
    """Write the file with the byte code of sources and extension modules, by name."""
    telling: dict[Path, Path] = {}  # the first source of each directory that is not the package's
    modules, states = {}, dict[str, tuple[int, int]]()
    for name, source in sorted(sources.items()):
        inside, code = source.is_relative_to(package), b""
        teller = telling.setdefault(source.parent, source) if source.suffix == ".py" and not inside else source
        path, telling_path = (str(one.relative_to(package) if inside else one) for one in (source, teller))
        status = teller.stat()  # if the source changes meanwhile, what is read is not taken for the new one
        states.setdefault(telling_path, (status.st_mtime_ns, status.st_size))
        with contextlib.suppress(SyntaxError):  # the import reports it
            if source.suffix == ".py":
                code = compiled(source) if inside else compiled_as_it_is(source)
            modules[name] = (path, telling_path, code)
    ours = {name: sources[name] for name, (path, _, code) in modules.items() if code and path[0] != "/"}
    bundle.write_bytes(finder.pack(modules, states, groups(ours)))
    return bundle
