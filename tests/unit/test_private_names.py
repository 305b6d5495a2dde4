"""The private names of CPython that are used: all of them are in this list, and the Python that runs has them.

They are there because the public modules around them (socket, stat, functools, importlib ...) cost milliseconds of a
start, or because there is no public name. A new Python may lose one: then this test says which.
"""

from __future__ import annotations

import _thread
import ast
import ctypes
import functools
import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "p11tpm").rglob("*.py"), *(ROOT / "csrc").glob("*.py")]
C_SOURCES = [*(ROOT / "csrc").glob("*.[ch]")]

NOT_PRIVATE = {"__future__", "_thread", "_p11tpm"}  # documented, and our own
DOCUMENTED = {"os._exit"}
NAMES = {
    "_frozen_importlib.ModuleSpec",
    "_frozen_importlib_external.ExtensionFileLoader",
    "_frozen_importlib_external.MAGIC_NUMBER",
    "_frozen_importlib_external.PathFinder",
    "_frozen_importlib_external.PathFinder.find_spec",
    "_frozen_importlib_external.SourceFileLoader",
    "_functools",
    "_functools._lru_cache_wrapper",
    "_imp",
    "_imp._fix_co_filename",
    "_imp.source_hash",
    "_operator._compare_digest",
    "_socket",
    "_socket.AF_UNIX",
    "_socket.CMSG_SPACE",
    "_socket.MSG_CMSG_CLOEXEC",
    "_socket.MSG_NOSIGNAL",
    "_socket.MSG_PEEK",
    "_socket.SCM_RIGHTS",
    "_socket.SOCK_STREAM",
    "_socket.SOL_SOCKET",
    "_socket.socket",
    "_sqlite3",
    "_stat.S_IFDIR",
    "_stat.S_IMODE",
    "_stat.S_IROTH",
    "_stat.S_ISDIR",
    "_stat.S_ISLNK",
    "_stat.S_ISREG",
    "_stat.S_ISVTX",
    "_stat.S_IWGRP",
    "_stat.S_IWOTH",
    "posix._path_normpath",
}
METHODS = {"_at_fork_reinit": _thread.RLock()}  # by name: an object that has it
IN_C = {"_Py_IsFinalizing": (3, 13), "_PyThreadState_UncheckedGet": (3, 13)}  # the Python that has a public one


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The modules and their names that a source imports, each with the name that it has there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("p11tpm"):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def used(source: str) -> set[str]:
    """The modules that a source uses, their names that it uses, as ``module.name``, and the methods of METHODS."""
    tree = ast.parse(source)
    known = dict(imported(tree))
    names = set(known.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id in known:
                names.add(f"{known[node.value.id]}.{node.attr}")
            elif node.attr in METHODS:
                names.add(node.attr)
    return names


def private(names: set[str]) -> set[str]:
    """Those that CPython does not document."""
    plain = {name for name in names - DOCUMENTED if name.partition(".")[0] not in NOT_PRIVATE}
    return {name for name in plain if re.search(r"(^|\.)_(?!_)", name)}


def test_the_list_has_all_that_are_used_and_no_other() -> None:
    names = set().union(*(private(used(path.read_text())) for path in SOURCES))
    assert names == NAMES | set(METHODS)
    in_c = set().union(*(re.findall(r"\b_Py\w+", path.read_text()) for path in C_SOURCES))
    assert in_c == set(IN_C)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_this_python_has_the_name(name: str) -> None:
    module, *inner = name.split(".")
    functools.reduce(getattr, inner, importlib.import_module(module))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_this_python_has_the_method(name: str) -> None:
    assert callable(getattr(METHODS[name], name))


@pytest.mark.parametrize("name", sorted(IN_C))
def test_libpython_has_the_function_or_a_public_one(name: str) -> None:
    assert sys.version_info >= IN_C[name] or hasattr(ctypes.pythonapi, name)


def test_the_search_sees_what_it_looks_for() -> None:
    source = "import os, _stat as s\nfrom _imp import lost\ns.S_NONE; os._exit; self._mine; lock._at_fork_reinit()"
    assert private(used(source)) == {"_stat", "_stat.S_NONE", "_imp.lost", "_at_fork_reinit"}
