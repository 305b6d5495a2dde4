"""The TPM's key derivation functions, with the hash of the standard library."""

from __future__ import annotations

from p11tpm.crypto import hashes
from p11tpm.tpm.codec import u32


def fixed(label: bytes, context_u: bytes, context_v: bytes, bits: int) -> bytes:
    """Return what KDFa authenticates behind the counter."""
    return label + b"\0" + context_u + context_v + u32(bits)


def kdfa(digest: str, key: bytes | bytearray, label: bytes, context_u: bytes, context_v: bytes, bits: int) -> bytes:
    """Derive `bits` (a multiple of 8) from a key, in counter mode with HMAC: TPM 2.0 Part 1, clause 11.4.10.2."""
    rest = fixed(label, context_u, context_v, bits)
    size = bits // 8
    derived = b""
    counter = 1
    while len(derived) < size:
        derived += hashes.mac(digest, key, u32(counter) + rest)
        counter += 1
    return derived[:size]


def kdfe(digest: str, shared: bytes, label: bytes, party_u: bytes, party_v: bytes, bits: int) -> bytes:
    """Derive `bits` (a multiple of 8) from the x coordinate of an ECDH point: TPM 2.0 Part 1, clause 11.4.10.3."""
    fixed = shared + label + b"\0" + party_u + party_v
    size = bits // 8
    derived = b""
    counter = 1
    while len(derived) < size:
        derived += hashes.digest(digest, u32(counter) + fixed)
        counter += 1
    return derived[:size]


def mgf1(digest: str, seed: bytes, size: int) -> bytes:
    """Return `size` bytes of mask for OAEP: RFC 8017, appendix B.2.1."""
    mask = b""
    counter = 0
    while len(mask) < size:
        mask += hashes.digest(digest, seed + u32(counter))
        counter += 1
    return mask[:size]
