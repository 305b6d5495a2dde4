"""What `os` adds to `posix`, as far as every host needs it: `os` and what it loads cost 1.4 ms of each start."""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["dirname", "environment", "exists", "is_directory", "normpath"]

_DIRECTORY, _KIND = 0o040000, 0o170000  # S_IFDIR, S_IFMT


def environment() -> Mapping[str, str]:
    """Return the environment: as a program that is Python has it now, else as it was when Python started."""
    if "os" in sys.modules:
        return sys.modules["os"].environ  # type: ignore[no-any-return]
    return {_decoded(name): _decoded(value) for name, value in posix.environ.items()}


def _decoded(text: bytes) -> str:
    return text.decode(errors="surrogateescape")  # the module's own Python runs in UTF-8 mode


def normpath(path: str) -> str:
    """Return a path without what it can do without, such as ``//`` and ``/./``, as os.path.normpath does."""
    normal: str = posix._path_normpath(path)  # type: ignore[attr-defined] # noqa: SLF001 - what that is made of
    return normal or "."


def dirname(path: str) -> str:
    """Return the directory of an absolute path without a slash at its end, or that of a relative one."""
    above, _, _ = path.rpartition("/")
    return above.rstrip("/") or ("/" if path.startswith("/") else "")


def exists(path: str) -> bool:
    """Return whether there is anything by that name, if it is a link that leads nowhere."""
    try:
        posix.lstat(path)
    except (OSError, ValueError):
        return False
    return True


def is_directory(path: str) -> bool:
    """Return whether a path leads to a directory."""
    try:
        return posix.stat(path).st_mode & _KIND == _DIRECTORY
    except (OSError, ValueError):
        return False
