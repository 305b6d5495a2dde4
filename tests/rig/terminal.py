"""A program on a terminal of its own, and somebody in front of it."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import pexpect

from rig.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

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
        self._child.send(text)

    def type_secret(self, secret: str) -> None:
        """Answer once echo is off: what is typed before the program has seen to that is thrown away."""
        assert self._child.waitnoecho(SECONDS), f"what is typed would be shown: {self.seen}"
        self._child.sendline(secret)

    def end(self) -> int:
        """Wait for the end of the program: its exit code, negative for a signal."""
        self._child.expect_exact(pexpect.EOF)
        wait_until(lambda: not self._child.isalive(), "the end of the program", SECONDS)
        self._child.close()
        return self._child.exitstatus if self._child.signalstatus is None else -self._child.signalstatus
