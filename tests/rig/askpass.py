"""A user who types a PIN."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rig.process import write_secret

if TYPE_CHECKING:
    from pathlib import Path


class Askpass:
    """Answers what ssh and ssh-add ask with `pin`; `env` makes them ask, `questions()` tells what they asked."""

    def __init__(self, directory: Path, pin: str) -> None:
        self._pin = write_secret(directory / "askpass.pin", pin)
        self._asked = directory / "askpass.asked"
        program = directory / "askpass"
        pin_file, asked = shlex.quote(str(self._pin)), shlex.quote(str(self._asked))
        program.write_text(f'#!/bin/sh\necho "$1" >> {asked}\ncat {pin_file}\n')
        program.chmod(0o700)
        self.env = {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force"}

    def now(self, pin: str) -> None:
        """From now on the user types `pin`."""
        write_secret(self._pin, pin)

    def questions(self) -> list[str]:
        return self._asked.read_text().splitlines() if self._asked.exists() else []
