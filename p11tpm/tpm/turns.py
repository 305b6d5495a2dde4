"""Turns: threads have a TPM one after the other, and nobody twice while another one waits."""

from __future__ import annotations

import _thread
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class Turns:
    """A lock that its thread may take again; once let go of, it goes to whoever has waited.

    Python's own locks go to whoever asks first: a thread with many commands in a row would take it again and again.
    """

    __slots__ = ("_depth", "_gate", "_lock", "_owner")

    def __init__(self) -> None:
        self._gate = _thread.allocate_lock()  # of the thread whose turn is next
        self._lock = _thread.allocate_lock()
        self._owner = 0
        self._depth = 0

    def acquire(self, timeout: float = -1) -> bool:
        """Wait for a turn; False if it does not come within `timeout` seconds."""
        me = _thread.get_ident()
        if self._owner != me:
            if not self._wait(timeout):
                return False
            self._owner = me
        self._depth += 1
        return True

    def _wait(self, timeout: float) -> bool:
        if timeout < 0:
            with self._gate:
                return self._lock.acquire()
        end = monotonic() + timeout
        if not self._gate.acquire(timeout=timeout):
            return False
        try:
            return self._lock.acquire(timeout=max(0, end - monotonic()))
        finally:
            self._gate.release()

    def release(self) -> None:
        """End the turn."""
        self._depth -= 1
        if not self._depth:
            self._owner = 0
            self._lock.release()

    def give_way(self) -> None:
        """Have those go first who wait; they wait on if this thread has taken its turn twice."""
        if self._depth == 1:
            self.release()
            self.acquire()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, _type: object, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.release()
