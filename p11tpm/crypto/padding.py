"""Padding of RSA and the form of ECDSA: PKCS #1 (RFC 8017, clauses 7 and 9) and FIPS 186-5, clause 6.4."""

from __future__ import annotations

from posix import urandom

from p11tpm.algorithm import HASHES
from p11tpm.ck import CKR
from p11tpm.crypto import hashes
from p11tpm.crypto.hashes import compare_digest
from p11tpm.error import Error
from p11tpm.mechanism import RAW


def pkcs1(data: bytes, size: int) -> bytes:
    """Pad data for a signature of `size` bytes: EMSA-PKCS1-v1_5 without the hash (RFC 8017, clause 9.2).

    Raises CKR_DATA_LEN_RANGE for more than size - 11 bytes.
    """
    if len(data) > size - 11:
        raise Error(CKR.DATA_LEN_RANGE, f"a key of this size signs at most {size - 11} bytes")
    return b"\x00\x01" + b"\xff" * (size - 3 - len(data)) + b"\x00" + data


def signed_block(form: str, digest: str | None, data: bytes, modulus: bytes) -> bytes:
    """Return what a signature without anything random is made of, as long as the modulus: RAW data, or PKCS1.

    Raises CKR_DATA_LEN_RANGE, CKR_DATA_INVALID for raw data that are not below the modulus.
    """
    size = len(modulus)
    if form != RAW:
        return pkcs1((HASHES[digest].digest_info if digest else b"") + data, size)
    block = data.rjust(size, b"\x00")
    if len(block) > size:
        raise Error(CKR.DATA_LEN_RANGE, f"a key of this size signs at most {size} bytes")
    if block >= modulus:
        raise Error(CKR.DATA_INVALID, "the data are a number that is not below the modulus")
    return block


def recovered(block: bytes) -> bytes | None:
    """Remove the padding of `pkcs1`; None if it is not there."""
    head, _, data = block[2:].partition(b"\x00")
    padded = block[:2] == b"\x00\x01" and head.strip(b"\xff") == b"" and len(head) >= 8
    return data if padded and len(block) > 2 + len(head) else None


def _mgf1(seed: bytes, length: int, digest: str) -> bytes:
    """Mask generation function (RFC 8017, appendix B.2.1)."""
    size = HASHES[digest].size
    blocks = (hashes.digest(digest, seed + number.to_bytes(4, "big")) for number in range(-(-length // size)))
    return b"".join(blocks)[:length]


def pss_room(bits: int, digest: str, salt_length: int) -> int:
    """Return the bytes that a key of `bits` bits has for the salt of RSA-PSS (RFC 8017, clause 9.1.1).

    Raises CKR_MECHANISM_PARAM_INVALID for a salt without room.
    """
    room = (bits - 1 + 7) // 8 - HASHES[digest].size - 2
    if salt_length > room:
        raise Error(CKR.MECHANISM_PARAM_INVALID, f"a key of this size has room for a salt of {max(0, room)} bytes")
    return room


def check_pss_digest(hashed: bytes, digest: str) -> None:
    """Check that data are as long as a digest: CKR_DATA_LEN_RANGE."""
    if len(hashed) != HASHES[digest].size:
        raise Error(CKR.DATA_LEN_RANGE, f"RSA-PSS with {digest} signs a digest of that length and nothing else")


def pss(hashed: bytes, bits: int, digest: str, mask: str, salt_length: int) -> bytes:
    """Encode a digest for a key of `bits` bits: EMSA-PSS, with a fresh random salt.

    Raises what `check_pss_digest` and `pss_room` do.
    """
    check_pss_digest(hashed, digest)
    room = pss_room(bits, digest, salt_length)
    size = (bits - 1 + 7) // 8
    salt = urandom(salt_length)
    inner = hashes.digest(digest, b"\x00" * 8 + hashed + salt)
    block = b"\x00" * (room - salt_length) + b"\x01" + salt
    masked = int.from_bytes(block, "big") ^ int.from_bytes(_mgf1(inner, len(block), mask), "big")
    masked &= (1 << (8 * len(block) - (8 * size - (bits - 1)))) - 1
    return masked.to_bytes(len(block), "big") + inner + b"\xbc"


def ecdsa(hashed: bytes, bits: int) -> bytes:
    """Convert a digest of any length to the form that the TPM wants for a curve of `bits` bits: 32, 48 or 64 bytes.

    The value that is signed stays that of FIPS 186-5, clause 6.4.1: the leftmost bits of a longer digest, a shorter
    one as it is, here with zeros before it; those after it, for the short curves, are cut off again by who signs.
    Raises CKR_DATA_LEN_RANGE for more than 64 bytes on P-521, which no TPM hash has, and for no bytes at all.
    """
    size = min(bits // 8, 64)
    if not hashed or (bits > 512 and len(hashed) > size):
        raise Error(CKR.DATA_LEN_RANGE, "this is not the length of a digest")
    return hashed[:size].rjust(size, b"\x00").ljust(32, b"\x00")


# -- encryption (RFC 8017, clause 7)

PKCS1_LEAST = 11  # bytes of padding
_ZERO_OR_NOT = b"\x00" + b"\x01" * 255  # for bytes.translate


def pkcs1_cipher(data: bytes, size: int) -> bytes:
    """Pad data that are to be encrypted to `size` bytes: EME-PKCS1-v1_5 (clause 7.2.1); CKR_DATA_LEN_RANGE."""
    if len(data) > size - PKCS1_LEAST:
        raise Error(CKR.DATA_LEN_RANGE, f"a key of this size encrypts at most {size - PKCS1_LEAST} bytes")
    filling = b""
    while len(filling) < size - 3 - len(data):
        filling += urandom(size).replace(b"\x00", b"")
    return b"\x00\x02" + filling[: size - 3 - len(data)] + b"\x00" + data


def pkcs1_plain(block: bytes) -> bytes:
    """Undo `pkcs1_cipher` (clause 7.2.2); CKR_ENCRYPTED_DATA_INVALID for all that may be wrong.

    Every block takes the same steps, so that neither code nor time tells what was wrong.
    """
    end = _first(block[2:], 0) + 2
    good = compare_digest(block[:2], b"\x00\x02") & (PKCS1_LEAST - 1 <= end < len(block))
    return _plain(block[end + 1 :], good=good)


def oaep_least(digest: str) -> int:
    """Return how many bytes of padding EME-OAEP needs with a hash."""
    return 2 * HASHES[digest].size + 2


def oaep(data: bytes, size: int, digest: str, mask: str, label: bytes) -> bytes:
    """Pad data that are to be encrypted to `size` bytes: EME-OAEP (clause 7.1.1); CKR_DATA_LEN_RANGE."""
    hashed = hashes.digest(digest, label)
    zeros = size - oaep_least(digest) - len(data)
    if zeros < 0:
        raise Error(CKR.DATA_LEN_RANGE, f"a key of this size encrypts at most {max(0, zeros + len(data))} bytes")
    seed = urandom(len(hashed))
    masked = _mask(hashed + bytes(zeros) + b"\x01" + data, seed, mask)
    return b"\x00" + _mask(seed, masked, mask) + masked


def oaep_plain(block: bytes, digest: str, mask: str, label: bytes) -> bytes:
    """Undo `oaep` (clause 7.1.2); CKR_ENCRYPTED_DATA_INVALID for all that may be wrong, in the same steps."""
    if len(block) < oaep_least(digest):
        raise _undecryptable()
    hashed = hashes.digest(digest, label)
    masked_seed, masked = block[1 : len(hashed) + 1], block[len(hashed) + 1 :]
    rest = _mask(masked, _mask(masked_seed, masked, mask), mask)
    after = rest[len(hashed) :]
    end = _first(after.translate(_ZERO_OR_NOT), 1)
    good = compare_digest(rest[: len(hashed)], hashed) & compare_digest(block[:1], b"\x00")
    good &= compare_digest(after[end : end + 1], b"\x01")
    return _plain(after[end + 1 :], good=good)


def _mask(data: bytes, seed: bytes, digest: str) -> bytes:
    number = int.from_bytes(data, "big") ^ int.from_bytes(_mgf1(seed, len(data), digest), "big")
    return number.to_bytes(len(data), "big")


def _first(data: bytes, wanted: int) -> int:
    """Find a byte, in steps that do not depend on where it is; the length of the data if it is not there."""
    place, missing = len(data), 1
    for index, byte in enumerate(data):
        hit = missing & ((byte ^ wanted) - 1 >> 8 & 1)
        place += hit * (index - place)
        missing -= hit
    return place


def _plain(data: bytes, *, good: bool) -> bytes:
    if not good:
        raise _undecryptable()
    return data


def _undecryptable() -> Error:
    return Error(CKR.ENCRYPTED_DATA_INVALID, "these data were not encrypted like this for this key")
