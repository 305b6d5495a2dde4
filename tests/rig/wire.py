"""A network cable."""

from __future__ import annotations

import os
import subprocess
from typing import Self

from rig.rights import require_networks


def ip(*arguments: str) -> None:
    subprocess.run(["/usr/sbin/ip", *arguments], check=True, capture_output=True, text=True, timeout=60)


class Wire:
    """A pair of Ethernet interfaces: `near` is on this machine, `far` in a network namespace of its own. Needs root."""

    def __init__(self) -> None:
        require_networks()
        number = os.urandom(3).hex()
        self._namespace = f"p11tpm-{number}"
        self.near, self.far = f"p11n{number}", f"p11f{number}"
        ip("netns", "add", self._namespace)
        try:
            ip("link", "add", self.near, "type", "veth", "peer", "name", self.far, "netns", self._namespace)
            ip("link", "set", self.near, "up")
            ip("-n", self._namespace, "link", "set", self.far, "up")
        except BaseException:
            self.cut()
            raise

    def at_far_end(self, *argv: str) -> list[str]:
        """The command that runs `argv` where the far end is."""
        return ["/usr/sbin/ip", "netns", "exec", self._namespace, *argv]

    def cut(self) -> None:
        """Both ends go with the namespace."""
        ip("netns", "delete", self._namespace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
