"""Domain parameters of DSA and DH (Current Mechanisms 3.0, clauses 2.2 and 2.4): the numbers that key pairs share."""

from __future__ import annotations

from p11tpm.attribute import DOMAINS, Template, ulong, unsigned
from p11tpm.ck import CKA, CKK, CKR
from p11tpm.error import Error
from p11tpm.host.imports import Late
from p11tpm.mechanism import DH_SIZES, DSA_SIZES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import dsa

else:
    dsa = Late("cryptography.hazmat.primitives.asymmetric.dsa")


_SUBPRIMES = (160, 224, 256)  # bits: FIPS 186-4, clause 4.2
_BASE = 2
_GROUPS = {  # bits of the prime: the number in its formula (RFC 2409, clause 6.2; RFC 3526, clauses 2 to 7)
    1024: 129093,
    1536: 741804,
    2048: 124476,
    3072: 1690314,
    4096: 240904,
    6144: 929484,
    8192: 4743158,
}


class Domain:
    """Prime and base, and the order of the base: the subprime of DSA, for DH a multiple of it."""

    def __init__(self, key_type: int, attributes: Template) -> None:
        numbers = {type_: int.from_bytes(attributes[type_], "big") for type_ in DOMAINS[key_type]}
        self.key_type = key_type
        self.prime, self.base = numbers[CKA.PRIME], numbers[CKA.BASE]
        self.order = numbers.get(CKA.SUBPRIME, self.prime - 1)

    def check(self) -> None:
        """Refuse numbers that are not domain parameters: CKR_KEY_SIZE_RANGE, CKR_DOMAIN_PARAMS_INVALID."""
        self._check_size()
        if self.base not in range(2, self.prime - 1) or pow(self.base, self.order, self.prime) != 1:
            raise _invalid()
        if self.key_type == CKK.DSA and ((self.prime - 1) % self.order or pow(2, self.order - 1, self.order) != 1):
            raise _invalid()

    def _check_size(self) -> None:
        bits = self.prime.bit_length()
        if self.key_type == CKK.DSA:
            good = bits in DSA_SIZES and self.order.bit_length() in _SUBPRIMES
        else:
            good = min(DH_SIZES) <= bits <= max(DH_SIZES)
        if not good:
            raise Error(CKR.KEY_SIZE_RANGE, f"the token has no keys of this type over a prime of {bits} bits")

    @property
    def size(self) -> int:
        """Bytes of the prime."""
        return (self.prime.bit_length() + 7) // 8

    def public_value(self, private: int) -> int:
        """Return the public value that belongs to a private one."""
        return pow(self.base, private, self.prime)

    def shared(self, private: int, public: int, noise: int) -> bytes:
        """Agree with the other side's public value: as many bytes as the prime has; ValueError if it cannot be one.

        `noise`, a random number, hides in the exponent what time tells of it; the result is the same.
        """
        if not 1 < public < self.prime - 1:
            raise ValueError("the other side's public value is out of range")
        return pow(public, private + noise * (self.prime - 1), self.prime).to_bytes(self.size, "big")


def _invalid() -> Error:
    return Error(CKR.DOMAIN_PARAMS_INVALID, "these numbers are not domain parameters")


def generated(key_type: int, bits: int) -> Template:
    """Generate domain parameters over a prime of `bits` bits; CKR_KEY_SIZE_RANGE.

    Those of DSA are random. Those of DH are the groups of IKE, whose primes p are of a kind that takes minutes to find,
    (p - 1) / 2 being prime too: these are known to hide nothing, since they come from the digits of pi.
    """
    sizes: tuple[int, ...] = DSA_SIZES if key_type == CKK.DSA else tuple(_GROUPS)
    if bits not in sizes:
        raise Error(CKR.KEY_SIZE_RANGE, f"there are domain parameters of {', '.join(map(str, sizes))} bits")
    numbers = _dsa(bits) if key_type == CKK.DSA else {CKA.PRIME: _group(bits), CKA.BASE: _BASE}
    return {CKA.PRIME_BITS: ulong(bits), **{type_: unsigned(number) for type_, number in numbers.items()}}


def _dsa(bits: int) -> dict[int, int]:
    numbers = dsa.generate_parameters(bits).parameter_numbers()
    return {CKA.PRIME: numbers.p, CKA.SUBPRIME: numbers.q, CKA.BASE: numbers.g}


def _group(bits: int) -> int:
    """Return the prime of IKE's group of this size: 2^n - 2^(n - 64) - 1 + 2^64 * ([2^(n - 130) * pi] + number)."""
    return (1 << bits) - (1 << bits - 64) - 1 + ((_pi(bits - 130) + _GROUPS[bits]) << 64)


def _pi(bits: int) -> int:
    """Return pi, `bits` bits after the point, rounded down: 16 arctan(1/5) - 4 arctan(1/239), as Machin found."""
    one = 1 << bits + 64
    return (16 * _arctan(5, one) - 4 * _arctan(239, one)) >> 64


def _arctan(inverse: int, one: int) -> int:
    """Return arctan(1 / inverse), in parts of `one`."""
    power = total = one // inverse
    divisor, sign = 1, 1
    while power:
        power //= inverse * inverse
        divisor, sign = divisor + 2, -sign
        total += sign * (power // divisor)
    return total
