"""A machine's door to a network that asks who comes."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

from rig.process import Process, Stoppable, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rig.wire import Wire

IN = "CTRL-EVENT-EAP-SUCCESS"
NO_KEY = "ENGINE: cannot load private key"


class Supplicant(Stoppable):
    """A wpa_supplicant at the near end of `wire`; the file `settings` has the name of its directory of sockets."""

    def __init__(self, settings: Path, wire: Wire, env: Mapping[str, str]) -> None:
        [sockets] = [
            line.partition("=")[2] for line in settings.read_text().splitlines() if line.startswith("ctrl_interface=")
        ]
        self._cli = ["/usr/sbin/wpa_cli", "-p", sockets, "-i", wire.near]
        argv = ["/usr/sbin/wpa_supplicant", "-D", "wired", "-i", wire.near, "-c", settings]
        log = settings.with_suffix(".log")
        log.unlink(missing_ok=True)
        self._process = Process(argv, log, env)

    @property
    def log(self) -> str:
        return self._process.output()

    def ask(self, *words: str) -> str:
        """Answer of the control interface."""
        done = subprocess.run([*self._cli, *words], capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()

    def until(self, event: str = IN, count: int = 1, seconds: float = 10) -> None:
        """Wait until something has happened so many times; from a start to the first authentication it takes 2 s."""
        wait_until(lambda: self.log.count(event) >= count, f"{count} x {event}", seconds)

    def again(self, command: str = "reauthenticate", event: str = IN) -> None:
        """Begin anew, and wait for `event`. A client that is not in has to "reassociate", which takes 2 s.

        A switch does not hear every beginning of somebody whom it has thrown out after two failures.
        """
        count = self.log.count(event) + 1
        for _ in range(5):
            assert self.ask(command) == "OK"
            with contextlib.suppress(TimeoutError):
                return self.until(event, count, 4)
        raise TimeoutError(f"{count} x {event}")

    def status(self) -> dict[str, str]:
        """What it knows of the network: "suppPortStatus", "eap_tls_version" and others."""
        return dict(line.split("=", 1) for line in self.ask("status").splitlines())

    def is_in(self) -> bool:
        return self.status()["suppPortStatus"] == "Authorized"

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._process.stop()
