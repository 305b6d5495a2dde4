"""Modules whose Python code a test writes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BUILD = Path(__file__).resolve().parents[2] / "csrc" / "build.py"

# A core that answers CKR_OK to everything.
WHOLE = """
from _p11tpm import ffi, lib
STUBS = [name for name in dir(lib) if name.startswith("py_C_")]
def good(*args): return lib.FINISHED
def attach(names, function): [ffi.def_extern(name=name)(function) for name in names]
attach(STUBS, good)
ffi.def_extern(name="py_attached")(lambda: lib.FINISHED | len(STUBS))
"""


def build(module: Path, package: Path, env: Mapping[str, str] | None = None) -> None:
    """Build a module that finds its Python code in `package`."""
    command = [sys.executable, str(BUILD), "--module", str(module), "--package", str(package)]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, errors="surrogateescape", timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"Built {module}\n"), done


def changed_files(package: Path) -> Callable[[dict[str, tuple[int, int]]], set[str]]:
    """Return what csrc/origin.c: changed_files does, for a package at another place than a module's."""

    def is_as_it_was(path: Path, state: tuple[int, int]) -> bool:
        return path.exists() and (path.stat().st_mtime_ns, path.stat().st_size) == state

    return lambda states: {path for path, state in states.items() if not is_as_it_was(package / path, state)}


class Core:
    """The module `module`, whose Python code is in `directory`: what a test writes there is what runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "code"
        self.directory.mkdir()
        self.module = directory / "p11tpm.so"
        build(self.module, self.directory)

    def write(self, text: str | None) -> Path:
        """Make `text` the core, or let there be none at all; give the module."""
        package = self.directory / "p11tpm"
        shutil.rmtree(package, ignore_errors=True)
        if text is not None:
            package.mkdir()
            (package / "__init__.py").touch()
            (package / "entry.py").write_text(text)
        return self.module
