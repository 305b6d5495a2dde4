"""A program that runs beside a test and ends with it."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SANITIZERS = "P11TPM_TESTS_SANITIZERS"  # names variables that make asan has set
SANITIZED_SLOWER = 6  # times that waits may take then: all processors are busy with what is watched
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def clean_env(**extra: str) -> dict[str, str]:
    """Environment of a fresh login, with `extra` added: nothing of the developer's own settings leaks into a test."""
    user = pwd.getpwuid(os.getuid())
    return {
        "PATH": SYSTEM_PATH,
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "LANG": "C.UTF-8",
        **extra,
    }


def sanitizers() -> dict[str, str]:
    """What a program needs in its environment that loads the module of make asan: nothing else has to be watched."""
    return {name: os.environ[name] for name in os.environ.get(SANITIZERS, "").split()}


def write_secret(path: Path, text: str) -> Path:
    """Write `text` to `path`, readable by the owner only from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    return path


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 10) -> None:
    """Poll `ready` until it is true; TimeoutError names `what` was waited for. It has longer in make asan."""
    seconds *= SANITIZED_SLOWER if SANITIZERS in os.environ else 1
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.005)


def free_port(count: int = 1) -> int:
    """First of `count` consecutive TCP ports of the loopback interface that nobody uses.

    They lie below the ephemeral range, so that no outgoing connection takes one before the program has bound it.
    """
    for _ in range(1000):
        first = 20000 + int.from_bytes(os.urandom(2), "big") % 12000
        if all(_can_bind(first + offset) for offset in range(count)):
            return first
    raise OSError("no free TCP ports between 20000 and 32000")


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(address: tuple[str, int] | Path) -> bool:
    """Whether somebody listens at a host and port, or at a socket in a file."""
    kind, where = (socket.AF_INET, address) if isinstance(address, tuple) else (socket.AF_UNIX, str(address))
    with socket.socket(kind) as probe:
        return probe.connect_ex(where) == 0


class Stoppable(ABC):
    """Something that runs until `stop`; as a context, until the end of that."""

    @abstractmethod
    def stop(self) -> None:
        """End it, and take away what it has left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Process:
    """A background program, its output in a file, ended by the kernel should the test process die."""

    def __init__(self, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = Path(argv[0]).name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                ["/usr/bin/setpriv", "--pdeathsig", "TERM", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=clean_env() if env is None else env,
            )
        self.pid = self._popen.pid

    def running(self) -> bool:
        return self._popen.poll() is None

    def listens(self, port: int) -> bool:
        """True if this very process listens on `port`; looks without connecting. ChildProcessError if it has ended."""
        if not self.running():
            raise ChildProcessError(f"{self.name} ended with {self._popen.returncode}: {self.output()}")
        try:
            own = {str(entry.readlink()) for entry in Path(f"/proc/{self.pid}/fd").iterdir()}
        except OSError:  # a descriptor went while we looked
            return False
        return any(f"socket:[{inode}]" in own for inode in _listeners(port))

    def wait_listening(self, port: int) -> None:
        wait_until(lambda: self.listens(port), f"{self.name} listening on port {port}")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the program for the time of a context: it keeps what it has, and answers nobody."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: self._state() == "T", f"{self.name} stopping")
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def _state(self) -> str:
        """Return the state of the program: proc(5), /proc/PID/stat."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End at once, as a power cut does."""
        self._popen.kill()
        self._popen.wait(10)

    def stop(self) -> None:
        """Ask the program to end; insist after 5 s."""
        self._popen.terminate()
        try:
            self._popen.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()


def _listeners(port: int) -> list[str]:
    """Inodes of the sockets that listen on an IPv4 `port` (proc(5), /proc/net/tcp: state 0A is LISTEN)."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return [row[9] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]
