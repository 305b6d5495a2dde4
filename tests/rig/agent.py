"""A real ssh-agent."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rig.process import Process, Stoppable, answers, clean_env, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

# ssh-agent is setgid, which takes away the order to end with its parent: a shell passes that on
START = '/usr/bin/ssh-agent "$@" & trap "kill $!; wait $!" TERM; wait'

HELPER = "ssh-pkcs11-helper"[:15]  # proc(5): comm


class Agent(Stoppable):
    """An ssh-agent that loads PKCS#11 modules from `allow` (pattern of real paths; None: its own default list).

    `env` is the environment of the agent and of ssh-add; clients need `socket` as SSH_AUTH_SOCK.
    """

    def __init__(self, env: Mapping[str, str] | None = None, allow: str | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="p11tpm-agent-"))
        self.socket = self.directory / "agent"
        self.env = {**(clean_env() if env is None else env), "SSH_AUTH_SOCK": str(self.socket)}
        self._options = ["-D", "-a", str(self.socket), *(["-P", allow] if allow else [])]
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self._process = Process(["/bin/sh", "-c", START, "sh", *self._options], self.directory / "log", self.env)
        wait_until(lambda: answers(self.socket), "ssh-agent")

    def restart(self) -> None:
        """End the agent, and start one that has no keys, at the same socket."""
        self._process.stop()
        self.socket.unlink(missing_ok=True)
        self._start()

    def ssh_add(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run ssh-add on this agent; `env` is added to the agent's."""
        return subprocess.run(
            ["/usr/bin/ssh-add", *arguments],
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def keys(self) -> list[str]:
        """Public keys that the agent offers, one line each."""
        done = self.ssh_add("-L")
        return done.stdout.splitlines() if done.returncode == 0 else []

    def helpers(self) -> list[Path]:
        """The processes in which PKCS#11 modules are loaded (proc(5))."""
        mark = f"SSH_AUTH_SOCK={self.socket}".encode()
        return [entry.parent for entry in Path("/proc").glob("[0-9]*/comm") if _is_helper(entry, mark)]

    @property
    def log(self) -> str:
        """What the agent and its PKCS#11 helper wrote to stderr."""
        return self._process.output()

    def stop(self) -> None:
        if hasattr(self, "_process"):
            self._process.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def _is_helper(entry: Path, mark: bytes) -> bool:
    try:
        name = entry.read_text().rstrip()
        return name == HELPER and mark in (entry.parent / "environ").read_bytes().split(b"\0")
    except OSError:  # it ended while we looked
        return False
