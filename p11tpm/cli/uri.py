"""PKCS#11 URIs of tokens and objects (RFC 7512)."""

from __future__ import annotations

from urllib.parse import quote

CERTIFICATE = "cert"
PRIVATE = "private"
PUBLIC = "public"


def _text(value: str) -> str:
    """Percent-encode all but the unreserved characters (clause 2.3), so that no shell or file format minds."""
    return quote(value, safe="")


def token_uri(label: str, serial: str) -> str:
    """Give the URI of a token."""
    return f"pkcs11:token={_text(label)};serial={_text(serial)}"


def object_uri(token: str, id_: bytes, label: bytes, type_: str) -> str:
    """Give the URI of an object in the token with this label; every byte of the id is encoded (clause 2.3)."""
    parts = [f"token={_text(token)}"]
    if id_:
        parts.append("id=" + "".join(f"%{byte:02X}" for byte in id_))
    if label:
        parts.append(f"object={quote(label, safe='')}")
    return "pkcs11:" + ";".join([*parts, f"type={type_}"])
