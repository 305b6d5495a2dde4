"""Random bytes for secrets of which the TPM does not make the key."""

from __future__ import annotations

from posix import urandom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.token import Token

_MIXED = 64  # bytes: more than any of these keys is strong for


def secret_bytes(token: Token, length: int, *, kept: bool) -> bytes:
    """Return random bytes of the system; in a key that is kept the first 64 are mixed with as many of the TPM's.

    Either generator may be bad then, at one command a key. Session keys do without: hosts make them by the thousand.
    """
    value = urandom(length)
    if not kept:
        return value
    mixed = min(length, _MIXED)
    return bytes(a ^ b for a, b in zip(value, token.tpm.random(mixed), strict=False)) + value[mixed:]
