"""PKCS#11 URIs of tokens and objects (RFC 7512)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from p11tpm.store.rows import TokenRow

CERTIFICATE = "cert"
PRIVATE = "private"
PUBLIC = "public"


def _text(value: str) -> str:
    """Percent-encode all but the unreserved characters (clause 2.3), so that no shell or file format minds."""
    return quote(value, safe="", errors="surrogateescape")


def token_uri(row: TokenRow) -> str:
    """Return the URI of a token, which no other token has: all that CK_TOKEN_INFO says of it."""
    manufacturer, model, _ = row.tpm.split("|")
    fields = {"model": (model, 16), "manufacturer": (manufacturer, 32), "serial": (row.serial, 16)}
    fields["token"] = row.label, 32
    parts = [f"{name}={_text(_field(value, size))}" for name, (value, size) in fields.items()]
    return f"pkcs11:{';'.join(parts)}"


def _field(value: str, size: int) -> str:
    """Return what is left of a text in a field of CK_TOKEN_INFO: so many bytes, without the blanks at their end."""
    raw = value.encode(errors="surrogateescape")
    return (raw[:size].decode(errors="ignore") if len(raw) > size else value).rstrip(" ")


def object_uri(token: str, id_: bytes, label: bytes, type_: str) -> str:
    """Return the URI of an object in the token with this URI; every byte of the id is encoded (clause 2.3)."""
    parts = [token]
    if id_:
        parts.append("id=" + "".join(f"%{byte:02X}" for byte in id_))
    if label:
        parts.append(f"object={quote(label, safe='')}")
    return ";".join([*parts, f"type={type_}"])
