"""Who says to step-ca that somebody may have a certificate."""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def encoded(data: bytes) -> str:
    """Base64 for URLs, without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> bytes:
    """A number of P-256 (RFC 7518, 6.2.1.2)."""
    return value.to_bytes(32, "big")


class Provisioner:
    """A JWK provisioner, as `step ca provisioner add --type JWK` makes it: `entry` stands in ca.json."""

    def __init__(self, name: str = "office") -> None:
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        point = self._key.public_key().public_numbers()
        place = {"x": encoded(number(point.x)), "y": encoded(number(point.y))}
        jwk = {"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": name, **place}
        self.entry = {"type": "JWK", "name": name, "key": jwk, "claims": {"enableSSHCA": True}}

    def token(self, path: str, subject: str, **claims: Any) -> str:
        """A one-time token (RFC 7519) to ask for `subject` at `path`."""
        now = int(time.time())
        times = {"iat": now, "nbf": now, "exp": now + 300}
        who = {"iss": self._name, "sub": subject, "aud": f"https://localhost{path}", "jti": secrets.token_hex(16)}
        head = {"alg": "ES256", "kid": self._name, "typ": "JWT"}
        text = ".".join(encoded(json.dumps(part).encode()) for part in (head, {**who, **times, **claims}))
        signature = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{encoded(b''.join(map(number, signature)))}"
