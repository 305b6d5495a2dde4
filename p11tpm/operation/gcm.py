"""Nonces of AES-GCM that OpenSSL does not take: shorter than 8 bytes or longer than 128 (NIST SP 800-38D)."""

from __future__ import annotations

_R = 0xE1 << 120  # clause 6.3
_BITS = 128


def equivalent(nonce: bytes, subkey: bytes) -> bytes:
    """Give a nonce of 16 bytes that leads to the same counter block; `subkey` is the encrypted block of zeros.

    The counter block of a nonce that has not 12 bytes is GHASH(nonce, zeros, its length) (clause 7.1, step 2), which
    for one block can be turned round: block = ((counter / H) ^ length) / H.
    """
    hash_subkey = int.from_bytes(subkey, "big")
    inverse = _inverse(hash_subkey)
    counter = 0
    padded = nonce.ljust(-(-len(nonce) // 16) * 16, b"\0") + (8 * len(nonce)).to_bytes(16, "big")
    for at in range(0, len(padded), 16):
        counter = _product(counter ^ int.from_bytes(padded[at : at + 16], "big"), hash_subkey)
    return _product(_product(counter, inverse) ^ _BITS, inverse).to_bytes(16, "big")


def _product(x: int, y: int) -> int:
    """Multiply in the field of GCM: algorithm 1 of clause 6.3."""
    z = 0
    for bit in range(_BITS - 1, -1, -1):
        z ^= y * (x >> bit & 1)
        y = (y >> 1) ^ _R * (y & 1)
    return z


def _inverse(x: int) -> int:
    """Give x to the power of 2**128 - 2."""
    power, result = x, 1 << (_BITS - 1)  # the bits of GCM run from the left: this is its 1
    for _ in range(_BITS - 1):
        power = _product(power, power)
        result = _product(result, power)
    return result
