"""Somebody who signs what is started."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rig.program import openssl, said

if TYPE_CHECKING:
    from pathlib import Path


class Signer:
    """A new RSA key, and a certificate of it, as PEM files in a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.key = directory / f"{name}.key"
        self.certificate = directory / f"{name}.pem"
        new = ("-newkey", "rsa:2048", "-nodes", "-keyout", self.key)
        openssl("req", "-x509", *new, "-subj", f"/CN={name}", "-out", self.certificate)

    def public_key(self) -> str:
        """Return the public key (PEM)."""
        return openssl("pkey", "-in", self.key, "-pubout")

    def sign(self, image: Path) -> None:
        """Add a signature to a program for UEFI (Authenticode)."""
        command = ["sbsign", "--key", self.key, "--cert", self.certificate, "--output", image, image]
        said(command, os.environ, image.parent)
