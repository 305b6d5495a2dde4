"""The documents name files, functions and classes that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / f"{name}.md" for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG", "README")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))

PLACE = re.compile(r"`((?:p11tpm|csrc|tests|tools|docs)/[\w./-]*)(?:: ([\w.]+))?`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")
NAMELESS = "NAME"  # stands for any name


def names_of(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """The names that a file or a class defines, as ``Token.login``."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name
            yield from names_of(node.body, f"{prefix}{node.name}.")
        for target in (*getattr(node, "targets", ()), getattr(node, "target", None)):
            if isinstance(target, ast.Name):
                yield prefix + target.id
            elif isinstance(target, ast.Attribute):  # self.lock = ..., in a method
                yield prefix.rpartition(".__init__.")[0] + "." + target.attr


def missing(text: str, root: Path = ROOT) -> list[str]:
    found = [link for link in LINK.findall(text) if not (root / link).exists() and not (root / "docs" / link).exists()]
    for place, name in PLACE.findall(text):
        path = (root / place).parent if NAMELESS in place else root / place
        if not path.exists():
            found.append(place)
        elif name:
            code = path.read_text()
            defined = names_of(ast.parse(code).body) if path.suffix == ".py" else re.findall(r"\b(\w+)\(", code)
            if name not in set(defined):
                found.append(f"{place}: {name}")
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(path: Path) -> None:
    assert missing(path.read_text()) == []


def test_the_check_sees_what_it_looks_for() -> None:
    text = """`p11tpm/ck.py: CKR` `p11tpm/tpm/tpm.py: Tpm.lock` `csrc/connection.c: connection_open`
    `p11tpm/cli/recipes/NAME.md` `p11tpm/gone.py` `p11tpm/ck.py: Nothing` `csrc/connection.c: nothing`
    [here](README.md) [there](gone.md) [elsewhere](https://example.org/gone)"""
    assert missing(text) == ["gone.md", "p11tpm/gone.py", "p11tpm/ck.py: Nothing", "csrc/connection.c: nothing"]
