"""The command, the module, its build and the demo import nothing but the standard library and what p11tpm depends on.

The environment of `make build` has no more than that.
"""

from __future__ import annotations

import ast
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parents[2]
TESTS = CHECKOUT / "tests"
STARTS = [TESTS / "demo.py", CHECKOUT / "csrc" / "build.py", *sorted((CHECKOUT / "p11tpm").rglob("*.py"))]
MADE_BY_THE_BUILD = {"_p11tpm"}  # of the module: what cffi makes of the C functions


class Imports(ast.NodeVisitor):
    """The names that a file imports, in its functions as well; but not those for type checking only."""

    def __init__(self, path: Path) -> None:
        self.names: set[str] = set()
        self.visit(ast.parse(path.read_text(), path))

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.names.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.module, "imports are absolute"
        self.names.update(f"{node.module}.{alias.name}" for alias in node.names)


def own_files(name: str, places: list[Path]) -> list[Path]:
    """Files below `places` that Python runs for the import of `name`: packages, the module, what it takes from it."""
    parts = name.split(".")
    stems = [place.joinpath(*parts[:depth]) for place in places for depth in range(1, len(parts) + 1)]
    files = [file for stem in stems for file in (stem / "__init__.py", stem.with_suffix(".py"))]
    return [file for file in files if file.is_file()]


def foreign(starts: list[Path], places: list[Path]) -> dict[str, set[Path]]:
    """Packages that are neither ours (below `places`) nor the standard library's, and the files that import them."""
    found: dict[str, set[Path]] = {}
    seen, waiting = set(starts), list(starts)
    while waiting:
        file = waiting.pop()
        for name in Imports(file).names:
            files = own_files(name, places)
            waiting += set(files) - seen
            seen.update(files)
            package = name.partition(".")[0]
            if not files and package not in sys.stdlib_module_names | MADE_BY_THE_BUILD:
                found.setdefault(package, set()).add(file)
    return found


def dependencies(name: str) -> set[str]:
    """The distributions that `name` needs without any of its extras, and those that they need."""
    needed: set[str] = set()
    waiting = [name]
    while waiting:
        for line in distribution(waiting.pop()).requires or []:
            requirement = Requirement(line)
            wanted = canonicalize_name(requirement.name)
            if wanted not in needed and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
                needed.add(wanted)
                waiting.append(wanted)
    return needed


@pytest.fixture(scope="module")
def offered() -> set[str]:
    """The packages in the product's environment."""
    needed = dependencies("p11tpm")
    return {
        package
        for package, distributions in packages_distributions().items()
        if needed & {canonicalize_name(one) for one in distributions}
    }


def test_nothing_else_can_be_reached(offered: set[str]) -> None:
    reached = foreign(STARTS, [CHECKOUT, TESTS, CHECKOUT / "csrc"])
    assert {"cffi", "cryptography", "rich"} <= set(reached)
    assert {name: files for name, files in reached.items() if name not in offered} == {}


def test_the_check_sees_what_it_looks_for(tmp_path: Path, offered: set[str]) -> None:
    package = tmp_path / "ours"
    package.mkdir()
    texts = {
        "__init__": "from ours.first import name\n",
        "first": "import json\nfrom ours import second\nif TYPE_CHECKING:\n    import types_only\n",
        "second": "def work():\n    import pexpect.popen_spawn\n    import rich.text\n",
        "unreached": "import nobody_asks\n",
    }
    for name, text in texts.items():
        (package / f"{name}.py").write_text(text)
    start = tmp_path / "start.py"
    start.write_text("import ours\n")
    assert foreign([start], [tmp_path]) == {name: {package / "second.py"} for name in ("pexpect", "rich")}
    assert "rich" in offered
    assert "pexpect" not in offered
