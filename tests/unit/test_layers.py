"""Imports point down only, and what every host loads stays light."""

from __future__ import annotations

import ast
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[2] / "p11tpm"

# From the top down. A file may import from its own room and from rooms below it; rooms side by side do not know each
# other. Imports for types count, too: anyone who reads a file has to know what it names.
ROOMS = (
    {"entry", "cli"},
    {"keys"},
    {"operation"},
    {"family"},
    {"core"},
    {"tpm"},
    {"crypto"},
    {"mechanism", "store"},
    {"parameter", "attribute", "host"},
    {"given"},
    {"algorithm", "error"},
    {"ck", "_native"},
)
NOT_FOR_THE_COMMAND_LINE = {"core.module", "core.session"}
C_BOUNDARY = {"entry"}  # the only room that knows the cffi of the C ABI

# What costs milliseconds, measured at start-up; these files and folders may load it, being loaded only when needed.
HEAVY = {
    *("asn1crypto", "asyncio", "collections", "configparser", "contextlib", "cryptography", "ctypes", "dataclasses"),
    *("datetime", "enum", "inspect", "json", "logging", "pathlib", "random", "re", "secrets", "shutil", "socket"),
    *("sqlite3", "ssl", "subprocess", "tempfile", "threading", "tomllib", "tpm2_pytss", "traceback", "typing"),
    "urllib",
}
LOADED_WHEN_NEEDED = {
    "cli",
    "core.adding",
    "core.binding",
    "core.key_material",
    "core.pcr_signature",
    "core.residents",
    "core.software",
    "core.uses",
    "crypto.block",
    "crypto.block_mac",
    "crypto.composed",
    "crypto.der",
    "crypto.modes",
    "entry.trace",
    "entry.uses",
    "family.block",
    "family.block_cipher",
    "family.dh",
    "family.domain",
    "family.dsa",
    "family.abilities",
    "family.ec_keys",
    "family.ec_later",
    "family.ec_private",
    "family.edwards",
    "family.hmac",
    "family.length",
    "family.mac",
    "family.pair",
    "family.placement",
    "family.private_key",
    "family.rsa_cipher",
    "family.rsa_keys",
    "family.rsa_later",
    "family.rsa_private",
    "family.secret",
    "family.secret_key",
    "family.tpm_keys",
    "family.tpm_pair",
    "keys.copy",
    "keys.create",
    "keys.derive",
    "keys.generate",
    "keys.wrap",
    "parameter",
    "tpm.bound",
    "tpm.importing",
    "tpm.password",
    "tpm.policy",
    "tpm.policy_session",
    "tpm.provision",
    "tpm.reclaim",
    "tpm.resident",
    "tpm.room",
    "tpm.state",
    "tpm.symmetric",
}
# The files that hold `import_lock` themselves, and at how many places: those that load a module of a computed name, or
# change what an import sees, or keep a fork waiting for something else.
HOLDS_THE_LOCK = {
    "host.imports": 2,
    "host.trylock": 2,
    "store.database": 1,
    "tpm.connection": 1,
    "tpm.salt": 1,
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}


class Imports(ast.NodeVisitor):
    """The modules that a file imports: when it is loaded, later, and for its types alone."""

    def __init__(self, path: Path) -> None:
        self.first: set[str] = set()
        self.later: set[str] = set()
        self.types: set[str] = set()
        self.unlocked: list[int] = []  # the lines of those of a function that does not hold `import_lock`
        self.late: dict[str, str] = {}  # module: the name that it has in the file
        self.named: dict[str, str] = {}  # the same for its types
        self.locks = 0  # places that hold `import_lock`
        self._into = self.first
        self._locks = 0
        self.visit(ast.parse(path.read_text()))

    @property
    def all(self) -> set[str]:
        return self.first | self.later | self.types

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)
            return
        with self._adding_to(self.types):
            for statement in node.body:
                self.visit(statement)
        for statement in node.orelse:
            self.visit(statement)

    @contextmanager
    def _adding_to(self, into: set[str]) -> Iterator[None]:
        before, self._into = self._into, into
        yield
        self._into = before

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        call = node.value
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Late" and isinstance(call.args[0], ast.Constant):
            self.late[call.args[0].value] = ast.unparse(node.targets[0])
            self.later.add(call.args[0].value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        locks, self._locks = self._locks, 0  # it may be called when they are free again
        with self._adding_to(self.later):
            self.generic_visit(node)
        self._locks = locks

    def visit_With(self, node: ast.With) -> None:
        held = sum(
            isinstance(item.context_expr, ast.Name) and item.context_expr.id == "import_lock" for item in node.items
        )
        self._locks += held
        self.locks += held
        self.generic_visit(node)
        self._locks -= held

    def visit_Import(self, node: ast.Import) -> None:
        self._add(node, {alias.name for alias in node.names})
        if self._into is self.types:
            self.named |= {alias.name: alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "imports are absolute"
        names = {f"{node.module}.{alias.name}" for alias in node.names}
        if self._into is self.types:
            self.named |= {f"{node.module}.{alias.name}": alias.asname or alias.name for alias in node.names}
        inner = {name for name in names if name.removeprefix("p11tpm.") in {*FILES, "_native"}}
        self._add(node, inner | ({node.module} if len(inner) < len(names) else set()))

    def _add(self, node: ast.stmt, names: set[str]) -> None:
        if self._into is self.later and not self._locks:
            self.unlocked.append(node.lineno)
        self._into.update(names - {"__future__", "p11tpm"})


IMPORTS = {name: Imports(path) for name, path in FILES.items()}


def inner(names: set[str]) -> set[str]:
    return {name.removeprefix("p11tpm.") for name in names if name.startswith("p11tpm.")}


def level(name: str) -> tuple[int, str]:
    """Return the place of a file's room from the top, and the room."""
    room = name.partition(".")[0]
    levels = [number for number, rooms in enumerate(ROOMS) if room in rooms]
    assert len(levels) == 1, f"p11tpm/{name.replace('.', '/')}.py is in no room"
    return levels[0], room


def within(name: str, members: set[str]) -> bool:
    return name in members or name.partition(".")[0] in members


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    here = level(name)
    for imported in inner(IMPORTS[name].all):
        there = level(imported)
        assert there == here or there[0] > here[0], f"{name} imports {imported}, which is not below it"


@pytest.mark.parametrize("name", FILES)
def test_what_every_host_loads_is_light(name):
    if within(name, LOADED_WHEN_NEEDED):
        return
    heavy = {imported for imported in IMPORTS[name].first if imported.partition(".")[0] in HEAVY}
    assert not heavy, f"{name} imports {heavy} when it is loaded"
    needless = {imported for imported in inner(IMPORTS[name].first) if within(imported, LOADED_WHEN_NEEDED)}
    assert not needless, f"{name} imports {needless} when it is loaded"


@pytest.mark.parametrize("name", FILES)
def test_only_the_boundary_knows_the_c_abi(name):
    assert within(name, C_BOUNDARY) or "_p11tpm" not in {imported.partition(".")[0] for imported in IMPORTS[name].all}


def test_the_command_line_works_on_tokens():
    for name in FILES:
        if within(name, {"cli"}):
            assert not inner(IMPORTS[name].all) & NOT_FOR_THE_COMMAND_LINE


def test_no_file_imports_itself_in_a_circle():
    graph = {name: inner(IMPORTS[name].all) - {name} for name in FILES}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", FILES)
def test_what_is_loaded_late_is_loaded_in_one_place(name):
    """A module that another thread is loading at a fork stays half loaded in the child: p11tpm/host/imports.py."""
    if within(name, {"cli"}):
        return
    assert not IMPORTS[name].unlocked, f"{name}: use p11tpm/host/imports.py: Late"
    assert IMPORTS[name].locks == HOLDS_THE_LOCK.get(name, 0), f"{name}: use p11tpm/host/imports.py: Late"


@pytest.mark.parametrize("name", FILES)
def test_what_is_loaded_late_has_its_types(name):
    late = IMPORTS[name].late
    assert late == {module: name for module, name in IMPORTS[name].named.items() if module in late}


def test_the_checks_see_what_they_look_for(tmp_path):
    path = tmp_path / "file.py"
    path.write_text(
        "from __future__ import annotations\nimport re\nfrom p11tpm import ck, _native\nfrom p11tpm.tpm import Tpm\n"
        "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from p11tpm.keys import wrap as wrapping\n"
        "else:\n    wrapping = Late('p11tpm.keys.wrap')\nif re:\n    import json.decoder\n"
        "class A:\n    import enum\n    def f(self):\n        from p11tpm.tpm import provision\n"
        "with import_lock:\n    import re\n"
        "    def f():\n        with import_lock:\n            import re\n        import re\n"
    )
    imports = Imports(path)
    assert imports.first == {"re", "p11tpm.ck", "p11tpm._native", "p11tpm.tpm", "json.decoder", "enum"}
    assert imports.later == {"p11tpm.tpm.provision", "p11tpm.keys.wrap", "re"}
    assert imports.unlocked == [15, 21]
    assert imports.types == {"p11tpm.keys.wrap"}
    assert imports.late == imports.named == {"p11tpm.keys.wrap": "wrapping"}
    assert imports.locks == 2
    assert level("tpm.wire") == level("tpm")
    with pytest.raises(AssertionError, match="in no room"):
        level("utils")
