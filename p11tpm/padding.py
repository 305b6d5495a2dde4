"""Data made ready for the private operation: PKCS #1 and ECDSA (RFC 8017 clause 9, FIPS 186-5 clause 6.4)."""

from __future__ import annotations

import hashlib
from os import urandom

from p11tpm.ck import CKR
from p11tpm.error import Error

# DER of DigestInfo up to the digest (RFC 8017, clause 9.2, note 1)
DIGEST_INFO = {
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}


def pkcs1(data: bytes, size: int) -> bytes:
    """Pad data for a signature of `size` bytes: EMSA-PKCS1-v1_5 without the hash (RFC 8017, clause 9.2).

    Raises CKR_DATA_LEN_RANGE for more than size - 11 bytes.
    """
    if len(data) > size - 11:
        raise Error(CKR.DATA_LEN_RANGE, f"a key of this size signs at most {size - 11} bytes")
    return b"\x00\x01" + b"\xff" * (size - 3 - len(data)) + b"\x00" + data


def _mgf1(seed: bytes, length: int, digest: str) -> bytes:
    """Mask generation function (RFC 8017, appendix B.2.1)."""
    size = hashlib.new(digest).digest_size
    blocks = (hashlib.new(digest, seed + number.to_bytes(4, "big")).digest() for number in range(-(-length // size)))
    return b"".join(blocks)[:length]


def pss(hashed: bytes, bits: int, digest: str, mask: str, salt_length: int) -> bytes:
    """Encode a digest for a key of `bits` bits: EMSA-PSS (RFC 8017, clause 9.1.1), with a fresh random salt.

    Raises CKR_DATA_LEN_RANGE for a digest of the wrong length, CKR_MECHANISM_PARAM_INVALID for a salt without room.
    """
    if len(hashed) != hashlib.new(digest).digest_size:
        raise Error(CKR.DATA_LEN_RANGE, f"RSA-PSS with {digest} signs a digest of that length and nothing else")
    size = (bits - 1 + 7) // 8
    room = size - len(hashed) - 2
    if salt_length > room:
        raise Error(CKR.MECHANISM_PARAM_INVALID, f"a key of this size has room for a salt of {room} bytes")
    salt = urandom(salt_length)
    inner = hashlib.new(digest, b"\x00" * 8 + hashed + salt).digest()
    block = b"\x00" * (room - salt_length) + b"\x01" + salt
    masked = int.from_bytes(block, "big") ^ int.from_bytes(_mgf1(inner, len(block), mask), "big")
    masked &= (1 << (8 * len(block) - (8 * size - (bits - 1)))) - 1
    return masked.to_bytes(len(block), "big") + inner + b"\xbc"


def ecdsa(hashed: bytes, bits: int) -> bytes:
    """Bring a digest of any length into the form that the TPM takes for a curve of `bits` bits: 32, 48 or 64 bytes.

    The value that is signed stays that of FIPS 186-5, clause 6.4.1: the leftmost bits of a longer digest, a shorter
    one as it is, here with zeros before it. Raises CKR_DATA_LEN_RANGE for more than 64 bytes on P-521, which no TPM
    hash has, and for no bytes at all.
    """
    size = min(bits // 8, 64)
    if not hashed or (bits > 512 and len(hashed) > size):
        raise Error(CKR.DATA_LEN_RANGE, "this is not the length of a digest")
    return hashed[:size].rjust(size, b"\x00")
