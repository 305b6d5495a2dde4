"""Waits that end, for what has no deadline of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
import traceback
from typing import TYPE_CHECKING

from rig.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

SECONDS = 60
FAILED = 120  # the exit code of a child whose work raised an error


def fork(work: Callable[[], int | None]) -> int:
    """Fork a child that does `work` and exits with what it answers; return its process id.

    Whatever happens there, it does not come back to the test, and an alarm ends it.
    """
    child = os.fork()
    if child == 0:
        code = FAILED
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the parent's tells it that a test takes too long
            signal.alarm(SECONDS)
            code = work() or 0
        except BaseException:  # noqa: BLE001 - nobody else is there to tell it
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def exit_code(child: int, seconds: float = SECONDS) -> int:
    """Wait for a forked child: its exit code, negative for a signal. One that takes longer is killed: TimeoutError."""
    try:
        wait_until(lambda: _has_ended(child), f"the end of child {child}", seconds)
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def join(*threads: threading.Thread, seconds: float = SECONDS) -> None:
    """Wait for threads. They have to be daemons, which nobody waits for when the test fails: TimeoutError."""
    for thread in threads:
        wait_until(lambda thread=thread: not thread.is_alive(), f"the end of {thread.name}", seconds)


def lock(file: IO[str], how: int, what: str, seconds: float = SECONDS) -> None:
    """Take LOCK_EX or LOCK_SH of a file, until it is closed; TimeoutError with `what` others have meanwhile."""
    wait_until(lambda: _is_locked(file, how), what, seconds)


def _is_locked(file: IO[str], how: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, how | fcntl.LOCK_NB)
        return True
    return False


@contextlib.contextmanager
def killed_after(child: int, seconds: float = SECONDS) -> Iterator[None]:
    """Kill the process `child` if the block takes longer: who reads what it says comes to the end of that."""
    timer = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
