"""A client that wants certificates of step-ca by its own protocol."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from typing import TYPE_CHECKING, Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

    from rig.provisioner import Provisioner


class Order:
    """A key of the subject's own, and the request for a certificate: DNS name `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        self.request = builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def save(self, path: Path, chain: list[str]) -> Path:
        """Write the certificate, what leads to the root, and the key to one file, as TLS clients want it."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        path.write_text("".join(chain) + key)
        return path


class CaClient:
    """One TLS connection to the step-ca on `port` of this machine, whose root certificate is in the file `root`."""

    def __init__(self, port: int, root: Path, certificate: Path | None = None) -> None:
        context = ssl.create_default_context(cafile=str(root))
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # which clients have from Python 3.13 on
        if certificate:
            context.load_cert_chain(certificate)
        self._connection = http.client.HTTPSConnection("localhost", port, timeout=30, context=context)

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What it answers; AssertionError with it if that is a refusal."""
        self._connection.request("POST", path, json.dumps(body or {}), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 201, f"{path}: {answer.status} {text}"
        told: dict[str, Any] = json.loads(text)
        return told

    def sign(self, order: Order, provisioner: Provisioner) -> list[str]:
        """A certificate by a one-time token, and what leads to the root (PEM)."""
        token = provisioner.token("/1.0/sign", order.name, sans=[order.name])
        chain: list[str] = self.post("/1.0/sign", {"csr": order.request, "ott": token})["certChain"]
        return chain

    def renew(self) -> list[str]:
        """A certificate like the one that this connection shows."""
        chain: list[str] = self.post("/1.0/renew")["certChain"]
        return chain

    def sign_ssh(self, kind: str, public_key: str, name: str, provisioner: Provisioner) -> str:
        """An SSH certificate, a line as in *-cert.pub; `kind` is "user" or "host"."""
        options = {"certType": kind, "keyID": name, "principals": [name]}
        token = provisioner.token("/1.0/ssh/sign", name, step={"ssh": options})
        body = {"publicKey": public_key.split()[1], "ott": token, **options}
        blob: str = self.post("/1.0/ssh/sign", body)["crt"]
        size = int.from_bytes(base64.b64decode(blob)[:4], "big")  # RFC 4253, 6.6: the type comes first
        return f"{base64.b64decode(blob)[4 : 4 + size].decode()} {blob} {name}\n"

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
