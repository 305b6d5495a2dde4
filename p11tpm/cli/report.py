"""Reports of errors that nobody foresaw: where in the program, and nothing of what it worked on."""

from __future__ import annotations

import platform
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from p11tpm import __version__
from p11tpm.host import config, files, log

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "report.txt"
_LIBRARIES = ("asn1crypto", "cffi", "click", "cryptography", "rich")


def say_where(error: BaseException) -> str:
    """Write a report and give the line for the user: what happened, and what to do."""
    text = "\n".join(_lines(error))
    try:
        place = f"the report {_write(text)}"
    except Exception:  # noqa: BLE001 - then it goes elsewhere
        log.configure(config.Config())
        log.error(text)
        place = "the report in the system's log (journalctl -t p11tpm)"
    what = type(error).__name__
    return f"this is a fault of p11tpm ({what}): run 'p11tpm doctor', and send {place} to those who maintain p11tpm"


def _lines(error: BaseException) -> Iterator[str]:
    """List the versions, and the frames of the error and of those that led to it.

    The text of an error may hold data, and so may local variables and the command's arguments: they stay out.
    """
    yield f"p11tpm {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES)
    one: BaseException | None = error
    while one is not None:
        yield type(one).__name__
        yield "".join(traceback.format_tb(one.__traceback__)).rstrip()
        one = one.__cause__ or one.__context__


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


def _write(text: str) -> Path:
    """Replace the report before, in a file that nobody else may read."""
    directory = config.state_directory()
    files.make_directory(directory)
    files.check_directory(directory)
    path = Path(directory) / _NAME
    path.unlink(missing_ok=True)
    files.make_file(str(path))
    path.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")
    return path
