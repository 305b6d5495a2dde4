"""A network of a test's own."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
from typing import Self

from rig.rights import require_networks
from rig.wire import Wire, ip

CLONE_NEWNET = 0x40000000  # <sched.h>
# of the networks that are for measurements (RFC 2544): no machine has them
NEAR, FAR = "198.18.0.1", "198.18.0.2"


class Network:
    """What this thread and its children see meanwhile: a loopback interface, and a wire from NEAR to FAR.

    Routes, addresses and ports of the machine stay as they are.
    """

    def __init__(self) -> None:
        require_networks()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def _check(self, result: int) -> None:
        if result:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def at_far_end(self, *argv: str) -> list[str]:
        """The command that runs `argv` at FAR."""
        return self._wire.at_far_end(*argv)

    def far_ip(self, *arguments: str) -> None:
        """Run ip(8) at the far end."""
        subprocess.run(self.at_far_end("ip", *arguments), timeout=60, check=True)

    def reaches(self, address: str) -> bool:
        """Whether somebody answers at an address, if only that this port is closed."""
        with socket.socket() as probe:
            probe.settimeout(5)
            return probe.connect_ex((address, 9)) in {0, errno.ECONNREFUSED}

    def __enter__(self) -> Self:
        self._check(self._libc.unshare(CLONE_NEWNET))
        try:
            self._wire = Wire()
            ip("link", "set", "lo", "up")
            ip("address", "add", f"{NEAR}/24", "dev", self._wire.near)
            self.far_ip("link", "set", "lo", "up")
            self.far_ip("address", "add", f"{FAR}/24", "dev", self._wire.far)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.cut()
        self._leave()

    def _leave(self) -> None:
        self._check(self._libc.setns(self._outside, CLONE_NEWNET))
        os.close(self._outside)
