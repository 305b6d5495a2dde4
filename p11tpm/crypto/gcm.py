"""GHASH, the hash of AES-GCM (NIST SP 800-38D), and what needs it beside OpenSSL.

OpenSSL does not take nonces that are shorter than 8 bytes or longer than 128.
"""

from __future__ import annotations

_R = 0xE1 << 120  # clause 6.3
_BITS = 128


class Ghash:
    """GHASH in the making (clause 6.4); `subkey` is the encrypted block of zeros."""

    def __init__(self, subkey: bytes) -> None:
        self._subkey = int.from_bytes(subkey, "big")
        self._state = 0
        self._rest = b""

    def update(self, data: bytes) -> Ghash:
        """Process the next bytes."""
        data = self._rest + data
        whole = len(data) - len(data) % 16
        for at in range(0, whole, 16):
            self._state = _product(self._state ^ int.from_bytes(data[at : at + 16], "big"), self._subkey)
        self._rest = data[whole:]
        return self

    def pad(self) -> Ghash:
        """Add zeros up to the end of the block."""
        return self.update(bytes(-len(self._rest) % 16))

    def finish(self, associated: int, length: int) -> bytes:
        """Return the hash of all that was taken, and of the lengths in bytes of its two parts."""
        self.pad().update((8 * associated).to_bytes(8, "big") + (8 * length).to_bytes(8, "big"))
        return self._state.to_bytes(16, "big")


def equivalent(nonce: bytes, subkey: bytes) -> bytes:
    """Return a nonce of 16 bytes that leads to the same counter block; `subkey` is the encrypted block of zeros.

    The counter block of a nonce that has not 12 bytes is GHASH(nonce, zeros, its length) (clause 7.1, step 2), which
    for one block can be turned round: block = ((counter / H) ^ length) / H.
    """
    inverse = _inverse(int.from_bytes(subkey, "big"))
    counter = int.from_bytes(Ghash(subkey).update(nonce).finish(0, len(nonce)), "big")
    return _product(_product(counter, inverse) ^ _BITS, inverse).to_bytes(16, "big")


def _product(x: int, y: int) -> int:
    """Multiply in the field of GCM: algorithm 1 of clause 6.3."""
    z = 0
    for bit in range(_BITS - 1, -1, -1):
        z ^= y * (x >> bit & 1)
        y = (y >> 1) ^ _R * (y & 1)
    return z


def _inverse(x: int) -> int:
    """Return x to the power of 2**128 - 2."""
    power, result = x, 1 << (_BITS - 1)  # the bits of GCM run from the left: this is its 1
    for _ in range(_BITS - 1):
        power = _product(power, power)
        result = _product(result, power)
    return result
