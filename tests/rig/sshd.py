"""A real OpenSSH server on the loopback interface."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rig.process import Process, clean_env, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG = """Port {port}
ListenAddress 127.0.0.1
HostKey "{directory}/host_key"
AuthorizedKeysFile "{directory}/authorized_keys"
PidFile none
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM {pam}
PrintMotd no
MaxStartups 100
LogLevel VERBOSE
"""


class Sshd:
    """An sshd with its own host key that lets the current user in with the keys of `authorize()`, and nobody else."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="p11tpm-sshd-"))
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self._process: Process | None = None
        self.authorize("")
        try:
            self._make_host_key()
            self._start_on_free_port()
        except BaseException:
            self.stop()
            raise

    def _make_host_key(self) -> None:
        key = self.directory / "host_key"
        subprocess.run(["/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)

    def _start_on_free_port(self) -> None:
        if os.getuid() == 0:
            # the place of privilege separation, which sshd's service makes before it starts
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config = self.directory / "sshd_config"
        for attempt in range(5):
            self.port = free_port()
            config.write_text(CONFIG.format(port=self.port, directory=self.directory, pam=_pam()))
            self._process = Process(["/usr/sbin/sshd", "-D", "-e", "-f", config], self.directory / "sshd.log")
            try:
                self._process.wait_listening(self.port)
            except ChildProcessError:  # somebody took the port between the look and the start
                if attempt == 4:
                    raise
            else:
                break
        host_key = (self.directory / "host_key.pub").read_text()
        (self.directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")

    @property
    def log(self) -> str:
        return self._process.output() if self._process else ""

    def authorize(self, *public_keys: str) -> None:
        """Let exactly these keys in (lines of `ssh-keygen -D` or `p11tpm key public`)."""
        (self.directory / "authorized_keys").write_text("".join(key.rstrip("\n") + "\n" for key in public_keys))

    def command(self, *options: str, remote: str = "echo welcome") -> list[str]:
        """The ssh command line for a login that uses no key but what `options` name."""
        settings = {
            "UserKnownHostsFile": f'"{self.directory}/known_hosts"',
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "PreferredAuthentications": "publickey",
            "IdentityFile": "none",
            "LogLevel": "ERROR",
        }
        fixed = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        target = ["-p", str(self.port), f"{self.user}@127.0.0.1", remote]
        return ["/usr/bin/ssh", "-F", "none", *options, *fixed, *target]

    def login(
        self, *options: str, env: Mapping[str, str] | None = None, remote: str = "echo welcome"
    ) -> subprocess.CompletedProcess[str]:
        """Log in with ssh's `options` and run `remote`; the caller looks at returncode, stdout and stderr."""
        return subprocess.run(
            self.command(*options, remote=remote),
            env=clean_env() if env is None else env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def stop(self) -> None:
        if self._process:
            self._process.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _pam() -> str:
    """Only PAM lets a user in whose password is locked with "!" (sshd looks as root only)."""
    if os.getuid() != 0:
        return "no"
    entries = (line.split(":") for line in Path("/etc/shadow").read_text().splitlines())
    user = pwd.getpwuid(0).pw_name
    return "yes" if any(entry[0] == user and entry[1].startswith("!") for entry in entries) else "no"
