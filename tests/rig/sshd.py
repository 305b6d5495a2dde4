"""A real OpenSSH server on the loopback interface."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rig.process import Process, Stoppable, clean_env, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

# HOME: what a developer's shell does at its start is slow, and may say something
CONFIG = """{settings}
Port {port}
ListenAddress 127.0.0.1
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
SetEnv HOME=/nonexistent
Subsystem sftp /usr/lib/openssh/sftp-server
LogLevel VERBOSE
"""


class Sshd(Stoppable):
    """An sshd that lets the current user in with the keys of `authorize()`, and nobody else.

    `settings` are lines for sshd_config. Without a `host_key`, the public key that its clients know, it makes one.
    """

    def __init__(self, settings: str = "", host_key: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="p11tpm-sshd-"))
        self.user = current_user()
        self._process: Process | None = None
        self._settings = settings
        self.authorize("")
        try:
            self._host_key = host_key or self._make_host_key()
            self._start_on_free_port()
        except BaseException:
            self.stop()
            raise

    def _make_host_key(self) -> str:
        key = make_key(self.directory / "host_key")
        self._settings += f'\nHostKey "{key}"'
        return key.with_suffix(".pub").read_text()

    def _start_on_free_port(self) -> None:
        if os.getuid() == 0:
            # the place of privilege separation, which sshd's service makes before it starts
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config = self.directory / "sshd_config"
        for attempt in range(5):
            self.port = free_port()
            config.write_text(
                CONFIG.format(settings=self._settings, port=self.port, directory=self.directory, pam=_pam())
            )
            self._process = Process(["/usr/sbin/sshd", "-D", "-e", "-f", config], self.directory / "sshd.log")
            try:
                self._process.wait_listening(self.port)
            except ChildProcessError:  # somebody took the port between the look and the start
                if attempt == 4:
                    raise
            else:
                break
        (self.directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {self._host_key}\n")

    @property
    def log(self) -> str:
        return self._process.output() if self._process else ""

    def authorize(self, *public_keys: str) -> None:
        """Accept exactly these keys (lines of `ssh-keygen -D` or `p11tpm key public`)."""
        (self.directory / "authorized_keys").write_text("".join(key.rstrip("\n") + "\n" for key in public_keys))

    def options(self, *options: str) -> list[str]:
        """What ssh and sftp are told so that they use no key but what `options` name, and nobody's own settings."""
        settings = {
            "UserKnownHostsFile": f'"{self.directory}/known_hosts"',
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "PreferredAuthentications": "publickey",
            "IdentityFile": "none",
            "LogLevel": "ERROR",
            "Port": str(self.port),
        }
        fixed = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        return ["-F", "none", *options, *fixed]

    @property
    def target(self) -> str:
        return f"{self.user}@127.0.0.1"

    def command(self, *options: str, remote: str = "echo welcome") -> list[str]:
        """The ssh command line for a login."""
        return ["/usr/bin/ssh", *self.options(*options), self.target, remote]

    def login(
        self, *options: str, env: Mapping[str, str] | None = None, remote: str = "echo welcome"
    ) -> subprocess.CompletedProcess[str]:
        """Log in with ssh's `options` and run `remote`; the caller looks at returncode, stdout and stderr."""
        return _ended(self.command(*options, remote=remote), env)

    def sftp(
        self, *options: str, commands: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Log in with sftp and type `commands` (not a batch: there, nobody is asked for a PIN)."""
        return _ended(["/usr/bin/sftp", "-q", *self.options(*options), self.target], env, commands)

    def stop(self) -> None:
        if self._process:
            self._process.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def current_user() -> str:
    """The name of whom an Sshd lets in."""
    return pwd.getpwuid(os.getuid()).pw_name


def _ended(command: list[str], env: Mapping[str, str] | None, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=clean_env() if env is None else env,
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def make_key(path: Path) -> Path:
    """A key in files, without a passphrase: the private half in `path`, the public one in `path`.pub."""
    subprocess.run(
        ["/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], timeout=60, check=True
    )
    return path


def _pam() -> str:
    """Only PAM lets a user in whose password is locked with "!" (sshd looks as root only)."""
    if os.getuid() != 0:
        return "no"
    entries = (line.split(":") for line in Path("/etc/shadow").read_text().splitlines())
    user = pwd.getpwuid(0).pw_name
    return "yes" if any(entry[0] == user and entry[1].startswith("!") for entry in entries) else "no"
