"""Code in every place where a Python that is embedded in the usual way looks for some."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"


class Plant:
    """Planted code below `directory`; each piece that runs leaves a file in `marks`.

    A host is to be run in `cwd`, with `env` added to its environment.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.marks = directory / "marks"
        self.marks.mkdir()
        self.cwd = directory / "cwd"
        self.env = {"PATH": "/nowhere", "HOME": str(directory / "home")}
        self._code(self.cwd, "os", "p11tpm", "_p11tpm", "sqlite3", "hashlib")

    def sow(self, way: str) -> Plant:
        """Plant code on one of WAYS."""
        WAYS[way](self)
        return self

    def ran(self) -> list[str]:
        """Return which pieces ran."""
        return sorted(mark.name for mark in self.marks.iterdir())

    def _code(self, place: Path, *names: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            mark = str(self.marks / name)
            (place / f"{name}.py").write_text(f"import posix\nposix.close(posix.open({mark!r}, posix.O_CREAT))\n")

    def _installation(self, place: Path) -> Path:
        """Make what looks like an installation of Python, with code of its own."""
        library = place / "lib" / PYTHON
        library.mkdir(parents=True)
        for one in Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix})).iterdir():
            # Debian's Python has a sitecustomize of its own; byte code of ours must not get among the real one's
            if one.name not in {"site-packages", "sitecustomize.py", "__pycache__"}:
                (library / one.name).symlink_to(one)
        self._code(library, "sitecustomize")
        (place / "bin").mkdir()
        for name in ("python3", PYTHON, "python"):
            (place / "bin" / name).write_text("#!/bin/sh\n")
            (place / "bin" / name).chmod(0o755)
        return place

    def python_path(self) -> None:
        """Plant modules where $PYTHONPATH leads."""
        place = self._directory / "path"
        self._code(place, "sitecustomize", "usercustomize", "_p11tpm", "p11tpm", "sqlite3")
        self.env["PYTHONPATH"] = str(place)

    def user_site(self) -> None:
        """Plant what the user's site directory runs."""
        self._code(Path(self.env["HOME"], ".local", "lib", PYTHON, "site-packages"), "usercustomize", "sitecustomize")

    def search_path(self) -> None:
        """Plant a whole Python where $PATH leads."""
        self.env["PATH"] = str(self._installation(self._directory / "usr") / "bin")

    def current_directory(self) -> None:
        """Plant a whole Python in the current directory."""
        self._installation(self.cwd)

    def python_home(self) -> None:
        """Plant a whole Python where $PYTHONHOME leads."""
        self.env["PYTHONHOME"] = str(self._installation(self._directory / "usr"))


WAYS = {
    "PYTHONPATH": Plant.python_path,
    "user site": Plant.user_site,
    "PATH": Plant.search_path,
    "cwd": Plant.current_directory,
    "PYTHONHOME": Plant.python_home,
}
