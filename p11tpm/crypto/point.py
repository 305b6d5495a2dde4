"""Points of the curves: what another side gives for its public key, checked before it meets a private key."""

from __future__ import annotations

# Prime and coefficient b of y^2 = x^3 - 3x + b (FIPS 186-4, appendix D.1.2)
_CURVES = {
    "p192": (2**192 - 2**64 - 1, 0x64210519E59C80E70FA7E9AB72243049FEB8DEECC146B9B1),
    "p224": (2**224 - 2**96 + 1, 0xB4050A850C04B3ABF54132565044B0B7D7BFD8BA270B39432355FFB4),
    "p256": (
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    ),
    "p384": (
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    ),
    "p521": (
        2**521 - 1,
        0x51953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
    ),
}


def coordinates(curve: str, octets: bytes) -> tuple[int, int]:
    """Return x and y of a point: uncompressed, raw or in a DER OCTET STRING; ValueError if it is none of the curve's.

    The point at infinity has no coordinates, and the curves have a prime order: there is no small subgroup to fall in.
    """
    prime, b = _CURVES[curve]
    size = (prime.bit_length() + 7) // 8
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
