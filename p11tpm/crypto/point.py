"""Points of the curves: what another side gives for its public key, checked before it meets a private key."""

from __future__ import annotations

from p11tpm.algorithm import CURVES


def coordinates(name: str, octets: bytes) -> tuple[int, int]:
    """Return x and y of a point: uncompressed, raw or in a DER OCTET STRING; ValueError if it is none of the curve's.

    The point at infinity has no coordinates, and the curves have a prime order: there is no small subgroup to fall in.
    """
    curve = CURVES[name]
    prime, b, size = curve.prime, curve.b, curve.size
    length = 1 + 2 * size
    header = bytes((0x04, length)) if length < 0x80 else bytes((0x04, 0x81, length))
    if len(octets) == len(header) + length and octets.startswith(header):
        octets = octets[len(header) :]
    if len(octets) != length or octets[0] != 0x04:
        raise ValueError("not an uncompressed point")
    x, y = int.from_bytes(octets[1 : 1 + size], "big"), int.from_bytes(octets[1 + size :], "big")
    if x >= prime or y >= prime or (y * y - (x * x - 3) * x - b) % prime:
        raise ValueError("not on the curve")
    return x, y
