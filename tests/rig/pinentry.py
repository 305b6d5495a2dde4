"""A user in front of GnuPG."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rig.process import write_secret

if TYPE_CHECKING:
    from pathlib import Path

# the Assuan protocol, as pinentry speaks it
SCRIPT = """#!/bin/sh
echo OK
while read -r command _; do
    case $command in
        GETPIN) echo >> {asked}; printf 'D '; cat {pin}; echo ;;
    esac
    echo OK
    [ "$command" != BYE ] || exit 0
done
"""


class Pinentry:
    """A `program` for gpg-agent that types `pin`; `asked()` tells how often."""

    def __init__(self, directory: Path, pin: str) -> None:
        self._pin = write_secret(directory / "pinentry.pin", pin)
        self._asked = directory / "pinentry.asked"
        self.program = directory / "pinentry"
        self.program.write_text(SCRIPT.format(pin=shlex.quote(str(self._pin)), asked=shlex.quote(str(self._asked))))
        self.program.chmod(0o700)

    def now(self, pin: str) -> None:
        """From now on the user types `pin`."""
        write_secret(self._pin, pin)

    def asked(self) -> int:
        return len(self._asked.read_text().splitlines()) if self._asked.exists() else 0
