"""What listens where hosts send what is for syslog."""

from __future__ import annotations

import re
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from host.programs import Hosts

HEAD = re.compile(r"<83>[A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d p11tpm\[\d+\]: ")


class Syslog:
    """A daemon for the programs that run with `env` added to theirs."""

    def __init__(self, hosts: Hosts) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="syslog-")  # a short path: sockets want one
        path = str(Path(self._directory.name, "log"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.setblocking(False)
        self.env = {"LD_PRELOAD": str(hosts.program("syslog", "-shared", "-fPIC")), "SYSLOG": path}

    def lines(self) -> list[str]:
        """Return what came since the last time, without the heads."""
        lines = []
        while True:
            try:
                line = self._socket.recv(1 << 16).decode()
            except BlockingIOError:
                return lines
            head = HEAD.match(line)
            assert head, line
            lines.append(line[head.end() :])

    def close(self) -> None:
        self._socket.close()
        self._directory.cleanup()
