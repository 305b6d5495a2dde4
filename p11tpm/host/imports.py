"""Modules that are loaded when they are first needed.

A module that another thread is loading at a fork stays half loaded in the child, and whoever needs it there waits for
ever. So a thread holds `import_lock` while it loads one, and a fork takes it first.
The same goes for libcrypto's locks: a thread that may take them without the GIL holds `import_lock` too.
Nobody waits for a transaction of the store while holding it: a fork stops those first, then takes `import_lock`.
"""

from __future__ import annotations

import _thread
import posix
import sys

from p11tpm.host.ending import SECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

import_lock = _thread.RLock()


class Late:
    """A module that is loaded when something of it is first needed, with `import_lock` held.

    A file gives the same name to the module under TYPE_CHECKING, for its types, and else to an object of this class.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: object = None

    def __getattr__(self, name: str) -> Any:
        if self._module is None:
            with import_lock:
                __import__(self._name)
                self._module = sys.modules[self._name]
        return getattr(self._module, name)


_taken: list[bool] = []  # whether the thread that forks holds `import_lock`


def _before_fork() -> None:
    _taken.append(import_lock.acquire(timeout=SECONDS))


def _after_fork_in_parent() -> None:
    if _taken.pop():
        import_lock.release()


def _after_fork_in_child() -> None:
    """Free the lock in the child, which does not have the thread that may have kept it from the fork."""
    if _taken.pop():
        import_lock.release()
    else:
        import_lock._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001 - what threading.RLock does after a fork


posix.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)


def load_fcntl() -> None:
    """Load the one extension module that logins need and a start does not, while paths lead to it.

    When the host has changed its root directory, nothing is loaded from a path any more.
    """
    with import_lock:
        import fcntl  # noqa: F401
