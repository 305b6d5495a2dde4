"""A program on a terminal of its own, and somebody in front of it."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect

from rig.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SECONDS = 60  # for what the program does until it says something


class Terminal:
    """A program that is started on a new terminal; `prepare` runs first in its process."""

    def __init__(
        self,
        command: Sequence[str | Path],
        env: Mapping[str, str],
        cwd: Path | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        program, *arguments = map(str, command)
        self._shown = io.StringIO()
        self._child = pexpect.spawn(
            program, arguments, env=env, cwd=cwd, preexec_fn=prepare, timeout=SECONDS, encoding="utf-8"
        )
        self._child.logfile_read = self._shown
        self._child.delaybeforesend = None

    @property
    def seen(self) -> str:
        """All that the program has shown."""
        return self._shown.getvalue().replace("\r\n", "\n")

    def shows(self, pattern: str) -> bool:
        """Wait for something new that `pattern` matches; false if the program ends without. pexpect.TIMEOUT."""
        return self._child.expect([re.compile(pattern, re.MULTILINE), pexpect.EOF]) == 0

    def type(self, text: str) -> None:
        """Answer once the program waits for it: Python hears Ctrl-C between question and read only after a line."""
        wait_until(self._waits, "the program waiting for an answer", SECONDS)
        self._child.send(text)

    def type_secret(self, secret: str) -> None:
        """Answer once echo is off: what is typed before the program has seen to that is thrown away."""
        assert self._child.waitnoecho(SECONDS), f"what is typed would be shown: {self.seen}"
        self.type(secret + "\n")

    def _waits(self) -> bool:
        """Whether the program sleeps (proc(5), /proc/PID/stat)."""
        return Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    def end(self) -> int:
        """Wait for the end of the program: its exit code, negative for a signal."""
        self._child.expect_exact(pexpect.EOF)
        wait_until(lambda: not self._child.isalive(), "the end of the program", SECONDS)
        self._child.close()
        return self._child.exitstatus if self._child.signalstatus is None else -self._child.signalstatus
