"""A company's certification authority."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rig.program import openssl

if TYPE_CHECKING:
    from pathlib import Path

NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """A CA with its key in a file, which certifies whatever it is asked to; `certificate` is its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.certificate = directory / "ca.pem"
        self._key = directory / "ca.key"
        openssl("req", "-x509", *NEW, "-subj", "/CN=Company CA", "-keyout", self._key, "-out", self.certificate)

    def certify(self, request: Path, extension: str = "extendedKeyUsage=clientAuth") -> Path:
        """Answer a request (PEM) with a certificate that lies beside it."""
        file = self._directory / "extension"
        file.write_text(extension)
        certificate = request.with_suffix(".pem")
        signer = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial")
        openssl("x509", "-req", "-in", request, *signer, "-extfile", file, "-out", certificate)
        return certificate

    def pair(self, name: str, extension: str = "extendedKeyUsage=clientAuth") -> tuple[Path, Path]:
        """A certificate for `name` and its key, both in files."""
        request, key = self._directory / f"{name}.csr", self._directory / f"{name}.key"
        openssl("req", "-new", *NEW, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        return self.certify(request, extension), key
