"""Programs that do one thing and end."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def said(command: Sequence[str | Path], env: Mapping[str, str], directory: Path, refused: str = "") -> str:
    """What a program without a terminal prints. With `refused` it must fail and say that; else it must not fail."""
    done = subprocess.run(
        command,
        env=env,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = done.stdout + done.stderr
    assert bool(done.returncode) == bool(refused), f"{command[0]} ended with {done.returncode}: {told}"
    assert refused in told, told
    return told


def ours(log: str) -> list[str]:
    """Lines in the log of a program that p11tpm has written; there are none while all is well."""
    return [line for line in log.splitlines() if line.startswith("p11tpm")]


def openssl(*arguments: str | Path, stdin: str = "") -> str:
    """Output of openssl, which knows of no token."""
    done = subprocess.run(
        ["/usr/bin/openssl", *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Pkcs12:
    """A key of elsewhere with its certificate: `key` and `certificate` (PEM), and both in `file`, opened by a PIN."""

    def __init__(self, directory: Path, name: str, algorithm: str, pin_file: Path) -> None:
        self.key = directory / "other.key"
        self.certificate = directory / "other.pem"
        self.file = directory / "other.p12"
        curve = ("-pkeyopt", "ec_paramgen_curve:P-256") if algorithm == "ec" else ()
        new = ("-newkey", algorithm, *curve, "-nodes", "-keyout", self.key)
        openssl("req", "-x509", *new, "-subj", f"/CN={name}", "-out", self.certificate)
        both = ("-inkey", self.key, "-in", self.certificate, "-name", name)
        openssl("pkcs12", "-export", *both, "-out", self.file, "-passout", f"file:{pin_file}")

    def public_key(self) -> str:
        return openssl("pkey", "-in", self.key, "-pubout")
