"""A TPM's device file, as far as a terminal can be one."""

from __future__ import annotations

import os
import pty
import socket
import threading
import tty
from typing import TYPE_CHECKING

from rig.proxy import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from rig.swtpm import Swtpm


def response_of(swtpm: Swtpm, request: bytes) -> bytes:
    """Return the response of a TPM to one command."""
    with socket.create_connection(("127.0.0.1", swtpm.port)) as tpm:
        tpm.sendall(request)
        response = tpm.recv(4096)
        while len(response) < int.from_bytes(response[2:6], "big"):
            response += tpm.recv(4096)
    return response


class Device:
    """A character device that answers as /dev/tpmrm0 does: a command whole, its response at once.

    `change`, if set, gets the request and the response, and returns the response that the client sees.
    """

    def __init__(self, swtpm: Swtpm) -> None:
        self.swtpm = swtpm
        self.commands: list[Command] = []
        self.change: Callable[[bytes, bytes], bytes] | None = None
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        self.slave = slave
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                request = os.read(self.master, 4096)
                while len(request) < int.from_bytes(request[2:6], "big"):
                    request += os.read(self.master, 4096)
                response = response_of(self.swtpm, request)
                self.commands.append(Command(request, self.change(request, response) if self.change else response))
                os.write(self.master, self.commands[-1].response)
            except OSError:
                return

    @property
    def tcti(self) -> str:
        return f"device:{self.path}"

    def close(self) -> None:
        os.close(self.slave)
        os.close(self.master)
