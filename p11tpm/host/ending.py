"""The end of a session, a login or a run, which waits for other threads' use of the TPM, but not for ever."""

from __future__ import annotations

from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Protocol

    class Lock(Protocol):
        """A lock that can be waited for for some seconds."""

        def acquire(self, *, timeout: float) -> bool:
            """Acquire it; False if nobody lets go of it in time."""

        def release(self) -> None:
            """Release it."""


SECONDS = 10.0  # after which C_Finalize, C_Logout, C_CloseSession and C_CloseAllSessions have returned
_PATIENCE = 6.0  # seconds of them for which other threads may go on waiting for the TPM
_FLUSHING = 3.0  # seconds of them that are kept for what is flushed at last


class Ending:
    """One end: it began now, and what cannot be had in time is done without."""

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self._began = monotonic()

    def left(self, seconds: float = SECONDS - 0.5) -> float:
        """Return how much is left of the first `seconds`, 0 for nothing."""
        return max(0.0, self._began + seconds - monotonic())

    def holding(self, lock: Lock, give_up: Callable[[], None]) -> _Holding:
        """Return a context with the lock, or without it if nobody lets go of it in time.

        `give_up` makes those who wait for the TPM with the lock let go of it.
        """
        return _Holding(self, lock, give_up)

    def take(self, lock: Lock, give_up: Callable[[], None]) -> bool:
        """Acquire a lock; False if nobody lets go of it in time."""
        if lock.acquire(timeout=self.left(_PATIENCE)):
            return True
        give_up()
        return lock.acquire(timeout=self.left(SECONDS - _FLUSHING))


class _Holding:
    """A context with a lock; its value says whether it is held."""

    __slots__ = ("_ending", "_give_up", "_held", "_lock")

    def __init__(self, ending: Ending, lock: Lock, give_up: Callable[[], None]) -> None:
        self._ending = ending
        self._lock = lock
        self._give_up = give_up
        self._held = False

    def __enter__(self) -> bool:
        self._held = self._ending.take(self._lock, self._give_up)
        return self._held

    def __exit__(self, _type: object, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self._held:
            self._lock.release()
