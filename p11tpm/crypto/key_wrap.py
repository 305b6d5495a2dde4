"""AES key wrapping, with any initial value (RFC 3394), and with padding (RFC 5649)."""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.crypto.hashes import compare_digest
from p11tpm.error import Error
from p11tpm.given import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Block = Callable[[bytes], bytes]

_IV = b"\xa6" * 8  # RFC 3394, clause 2.2.3.1
_PADDED_IV = b"\xa6\x59\x59\xa6"  # RFC 5649, clause 3
_HALF = 8  # bytes: half a block of AES
_ROUNDS = 6


def initial(iv: bytes, *, padded: bool) -> bytes:
    """Return the initial value for a mechanism's parameter; CKR_MECHANISM_PARAM_INVALID for a wrong length."""
    standard = _PADDED_IV if padded else _IV
    if iv and len(iv) != len(standard):
        raise refused(f"the initial value has {len(standard)} bytes")
    return iv or standard


def wrap(encrypt: Block, iv: bytes, data: bytes) -> bytes:
    """Wrap 16 bytes or more, a multiple of 8: CKR_DATA_LEN_RANGE. `encrypt` does one block (RFC 3394, clause 2.2.1)."""
    if len(data) < 2 * _HALF or len(data) % _HALF:
        raise Error(CKR.DATA_LEN_RANGE, "AES key wrapping takes 16 bytes or more, a multiple of 8")
    return _wrap(encrypt, iv, data)


def unwrap(decrypt: Block, iv: bytes, data: bytes) -> bytes:
    """Undo `wrap`; CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_ENCRYPTED_DATA_INVALID (RFC 3394, clause 2.2.2)."""
    if len(data) < 3 * _HALF or len(data) % _HALF:
        raise Error(CKR.ENCRYPTED_DATA_LEN_RANGE, "what AES key wrapping gives has another length")
    start, plain = _unwrap(decrypt, data)
    if not compare_digest(start, iv):
        raise _invalid()
    return plain


def wrap_padded(encrypt: Block, iv: bytes, data: bytes) -> bytes:
    """Wrap one byte or more: CKR_DATA_LEN_RANGE (RFC 5649, clause 4.1)."""
    if not 0 < len(data) < 1 << 32:
        raise Error(CKR.DATA_LEN_RANGE, "AES key wrapping takes one byte at least")
    start = iv + len(data).to_bytes(4, "big")
    padded = data + bytes(-len(data) % _HALF)
    return encrypt(start + padded) if len(padded) == _HALF else _wrap(encrypt, start, padded)


def unwrap_padded(decrypt: Block, iv: bytes, data: bytes) -> bytes:
    """Undo `wrap_padded`; the errors are those of `unwrap` (RFC 5649, clause 4.2)."""
    if len(data) < 2 * _HALF or len(data) % _HALF:
        raise Error(CKR.ENCRYPTED_DATA_LEN_RANGE, "what AES key wrapping gives has another length")
    if len(data) == 2 * _HALF:
        block = decrypt(data)
        start, padded = block[:_HALF], block[_HALF:]
    else:
        start, padded = _unwrap(decrypt, data)
    length = int.from_bytes(start[4:], "big")
    unused = len(padded) - length
    good = compare_digest(start[:4], iv) & (0 <= unused < _HALF)
    if not good & (not any(padded[-(unused % _HALF) or len(padded) :])):
        raise _invalid()
    return padded[:length]


def _wrap(encrypt: Block, start: bytes, data: bytes) -> bytes:
    halves = [data[at : at + _HALF] for at in range(0, len(data), _HALF)]
    count = 0
    for _ in range(_ROUNDS):
        for index, half in enumerate(halves):
            count += 1
            block = encrypt(start + half)
            start = (int.from_bytes(block[:_HALF], "big") ^ count).to_bytes(_HALF, "big")
            halves[index] = block[_HALF:]
    return start + b"".join(halves)


def _unwrap(decrypt: Block, data: bytes) -> tuple[bytes, bytes]:
    start, *halves = (data[at : at + _HALF] for at in range(0, len(data), _HALF))
    count = _ROUNDS * len(halves)
    for _ in range(_ROUNDS):
        for index in range(len(halves) - 1, -1, -1):
            block = decrypt((int.from_bytes(start, "big") ^ count).to_bytes(_HALF, "big") + halves[index])
            start, halves[index] = block[:_HALF], block[_HALF:]
            count -= 1
    return start, b"".join(halves)


def _invalid() -> Error:
    return Error(CKR.ENCRYPTED_DATA_INVALID, "these data were not wrapped with this key, or were changed")
