"""Somebody with keys in a TPM."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rig.askpass import Askpass
from rig.process import clean_env, sanitizers, write_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rig.proxy import CountingProxy
    from rig.swtpm import Swtpm
    from rig.tabrmd import Tabrmd

COMMAND = Path(sys.prefix) / "bin" / "p11tpm"


class User:
    """A user of p11tpm on `tpm`, whose store, PINs and settings are below `directory`, and not the machine's.

    `env` is the environment of the user's programs: ssh and ssh-add that are started with it get `pin` when they ask.
    `command` is the p11tpm to use: the checkout's, unless another one was installed.
    """

    command = COMMAND

    def __init__(
        self, tpm: Swtpm | Tabrmd | CountingProxy, directory: Path, pin: str = "123456", so_pin: str = "so-secret"
    ) -> None:
        self.pin = pin
        self.so_pin = so_pin
        self.directory = directory
        self.store = directory / "store"
        self.pin_file = write_secret(directory / "pin", pin)  # libp11 takes a final newline for part of the PIN
        self.so_pin_file = write_secret(directory / "so-pin", so_pin)
        self.askpass = Askpass(directory, pin)
        self.env = clean_env(**sanitizers(), **self._places(tpm), **tpm.env, **self.askpass.env)

    def _places(self, tpm: Swtpm | Tabrmd | CountingProxy) -> dict[str, str]:
        """The environment that names the TPM and this user's files."""
        config = write_secret(self.directory / "p11tpm.conf", "")
        return {"P11TPM_TCTI": tpm.tcti, "P11TPM_STORE": str(self.store), "P11TPM_CONF": str(config)}

    def run(self, *command: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a program in the user's environment; the caller looks at the result."""
        return subprocess.run(command, env=self.env, input=stdin, capture_output=True, timeout=120, check=False)

    def p11tpm(self, *arguments: str | Path) -> str:
        """Output of the command line; ChildProcessError with what it said if it fails."""
        done = self.run(self.command, *arguments)
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace")
            raise ChildProcessError(f"p11tpm {' '.join(map(str, arguments))}: {said}")
        return done.stdout.decode()

    @property
    def module(self) -> str:
        """Path of the PKCS#11 module."""
        return self.p11tpm("module").strip()

    def create_token(self, label: str = "p11tpm") -> None:
        """A token without keys."""
        self.p11tpm("token", "create", "--label", label, *self._pins)

    @property
    def _pins(self) -> tuple[str | Path, ...]:
        return "--pin-file", self.pin_file, "--so-pin-file", self.so_pin_file

    def init(self, label: str = "test", algorithm: str = "p256", key_label: str = "ssh") -> None:
        """A token with a first key."""
        self.p11tpm("init", "--label", label, *self._pins, "--algorithm", algorithm, "--key-label", key_label)

    def init_keys(self, keys: Mapping[str, str]) -> None:
        """A token with these keys (labels and algorithms)."""
        (first, algorithm), *others = keys.items()
        self.init(algorithm=algorithm, key_label=first)
        for label, algorithm in others:
            self.generate(algorithm, label)

    def generate(self, algorithm: str, label: str) -> None:
        """One more key."""
        self.p11tpm("key", "generate", "--algorithm", algorithm, "--label", label, "--pin-file", self.pin_file)

    def public_key(self, label: str) -> str:
        """The line for authorized_keys."""
        return self.p11tpm("key", "public", label, "--format", "openssh").strip()

    def public_pem(self, label: str, path: Path) -> Path:
        """The public key in a file that openssl reads."""
        path.write_text(self.p11tpm("key", "public", label, "--format", "pem"))
        return path

    def tokens(self) -> list[dict[str, Any]]:
        """What `p11tpm token list` knows."""
        listed: list[dict[str, Any]] = json.loads(self.p11tpm("token", "list", "--json"))
        return listed
