"""A virtual private network."""

from __future__ import annotations

import os
import re
import signal
import socket
from typing import TYPE_CHECKING, Self

from rig.network import FAR
from rig.process import Process, Stoppable, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rig.authority import Authority
    from rig.network import Network

INSIDE = "198.19.0.1"
EXTENSION = "keyUsage=digitalSignature\nextendedKeyUsage=serverAuth"
CONNECTED = "CONNECTED,SUCCESS"
PROGRAM = "/usr/sbin/openvpn"


class Gateway:
    """OpenVPN at the far end of `network`, which lets in whom `authority` has certified; `INSIDE` is behind it."""

    def __init__(self, directory: Path, authority: Authority, network: Network, *options: str) -> None:
        certificate, key = authority.pair("vpn.example.com", EXTENSION)
        settings = {
            "dev": "tun",
            "topology": "subnet",
            "server": "198.19.0.0 255.255.255.0",
            "local": FAR,
            "ca": authority.certificate,
            "cert": certificate,
            "key": key,
            "dh": "none",
        }
        given = [part for name, value in settings.items() for part in (f"--{name}", *str(value).split(" "))]
        command = network.at_far_end(PROGRAM, *given, *options)
        self._process = Process(command, directory / "gateway.log")
        wait_until(lambda: "Initialization Sequence Completed" in self.log, "the gateway")

    @property
    def log(self) -> str:
        return self._process.output()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()


class OpenVpn(Stoppable):
    """A client with the configuration `settings`, and a user in front of it who types `pin` when asked.

    `asked` counts the questions.
    """

    def __init__(self, settings: Path, env: Mapping[str, str], pin: str) -> None:
        control = settings.with_suffix(".socket")
        control.unlink(missing_ok=True)
        log = settings.with_suffix(".log")
        log.unlink(missing_ok=True)
        front = ("--verb", "3", "--management", control, "unix", "--management-query-passwords", "--management-hold")
        unit = ("--suppress-timestamps", "--nobind", "--config", settings)  # as Debian's unit starts it
        self._process = Process([PROGRAM, *unit, *front], log, env)
        self._pin = pin
        self.asked = 0
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            wait_until(lambda: self._socket.connect_ex(str(control)) == 0, "OpenVPN's management socket")
        except BaseException:
            self.stop()
            raise
        self._socket.settimeout(20)
        self._lines = self._socket.makefile("rw")
        self._type("state on", "hold off", "hold release")

    def _type(self, *commands: str) -> None:
        for command in commands:
            self._lines.write(command + "\n")
        self._lines.flush()

    def until(self, event: str) -> None:
        """Go on until OpenVPN tells of `event`; TimeoutError if nothing happens, ChildProcessError if it ends."""
        for line in self._lines:
            if question := re.search("Need '(.*)' password", line):
                self.asked += 1
                self._type(f"password '{question[1]}' {self._pin}")
            if event in line:
                return
        raise ChildProcessError(self.log)

    def reconnect(self) -> None:
        os.kill(self._process.pid, signal.SIGUSR1)
        self.until("RECONNECTING")
        self.until(CONNECTED)

    @property
    def log(self) -> str:
        return self._process.output()

    def stop(self) -> None:
        self._socket.close()
        self._process.stop()
