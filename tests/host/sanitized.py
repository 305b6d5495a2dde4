"""The module under AddressSanitizer and UndefinedBehaviorSanitizer: ``python tests/host/sanitized.py PATH...``.

It runs the tests in PATHs on a build of its own, which is make asan. An error that a sanitizer finds ends the program
in which it is found, with a report on stderr.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from rig.process import SANITIZERS

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKOUT = Path(__file__).resolve().parents[2]
UNWATCHED = {  # what is in the way: tests
    "a library of the test's own is preloaded": (
        "tests/host/test_quiet.py",
        "tests/host/test_silent.py",
        "tests/host/test_wrong_pins.py",
        "tests/host/test_python_host.py",
    ),
    "the environment does not count": ("tests/host/test_setuid.py", "tests/host/test_root.py"),
    "the sanitizer needs all addresses, and tells of each lack of memory": ("tests/host/test_broken.py",),
    "the libraries of a start are counted": ("tests/host/test_start.py",),
    "all memory of a program is read, of which the sanitizer has terabytes": ("tests/host/test_secrets.py",),
    "the sanitizers take the place of FORTIFY": ("tests/host/test_file.py::test_hardening",),
    "another build is compared": ("tests/host/test_copies.py", "tests/host/test_bundle.py"),
}
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g"


class Sanitized:
    """A copy of the package below `directory` whose C is watched; `env` is what a program needs that loads it."""

    def __init__(self, directory: Path) -> None:
        self.module = directory / "p11tpm.so"
        ignored = shutil.ignore_patterns("*.so", "*.bin", "__pycache__")
        shutil.copytree(CHECKOUT / "p11tpm", directory / "p11tpm", ignore=ignored)
        library = self._run({}, "gcc", "-print-file-name=libasan.so").strip()
        self.env = {
            "LD_PRELOAD": str(Path(library).resolve()),  # before all libraries, in a host that knows nothing of it
            "ASAN_OPTIONS": "detect_leaks=0",  # Python ends with its host, and frees nothing
            "PYTHONPATH": str(directory),  # in the place of the package that was built for the other tests
            "PYTHONMALLOC": "malloc",
        }
        compiler = {"CC": f"gcc {FLAGS}", "PYTHONPATH": str(directory)}
        self._run(compiler, sys.executable, str(CHECKOUT / "csrc/build.py"), "--module", str(self.module))

    @staticmethod
    def _run(more: Mapping[str, str], *command: str) -> str:
        env = {**os.environ, **more}
        return subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, timeout=300, check=True).stdout


def main() -> int:
    """Run the command."""
    with tempfile.TemporaryDirectory(prefix="p11tpm-asan-") as directory:
        env = Sanitized(Path(directory)).env
        marked = {**os.environ, **env, SANITIZERS: " ".join(env)}
        unwatched = [f"--deselect={test}" for tests in UNWATCHED.values() for test in tests]
        command = [sys.executable, "-m", "pytest", *unwatched, *sys.argv[1:]]
        return subprocess.run(command, env=marked, timeout=7200, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
