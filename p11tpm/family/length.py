"""The length of what is derived."""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.error import Error


def require(length: int | None, most: int) -> None:
    """Refuse more bytes than a mechanism gives: CKR_TEMPLATE_INCONSISTENT."""
    if length is not None and length > most:
        raise Error(CKR.TEMPLATE_INCONSISTENT, f"the mechanism gives at most {most} bytes here")


def first_bytes(value: bytes, length: int | None) -> bytes:
    """Return so many of the first bytes, or all (clauses 2.43.3 to 2.43.11); CKR_TEMPLATE_INCONSISTENT."""
    require(length, len(value))
    return value if length is None else value[:length]


def last_bytes(value: bytes, length: int | None) -> bytes:
    """Return so many bytes of an agreement, or all: the leading ones go (clauses 2.3.17, 2.4.6)."""
    require(length, len(value))
    return value if length is None else value[-length:]
