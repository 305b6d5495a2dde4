"""RSA and EC private keys at work in software: those that may leave the token (clause 4.9)."""

from __future__ import annotations

from math import gcd
from posix import urandom
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from p11tpm.ck import CKA, CKR
from p11tpm.crypto import der
from p11tpm.crypto.public import ec_curve, prehashed
from p11tpm.error import Error
from p11tpm.mechanism import curve_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from p11tpm.core.object import Object

_NOISE = 8  # bytes by which an exponent is made longer, so that the time it takes tells nothing of it


class InSoftware:
    """The private operations of `TokenTpm`, with keys that are not in the TPM. `secret_of`: that of `TokenTpm`."""

    def __init__(self, secret_of: Callable[[Object], bytes]) -> None:
        self._secret_of = secret_of

    def rsa(self, key: Object, block: bytes) -> bytes:
        """Perform the RSA private operation on a block as long as the modulus, in a time independent of the key."""
        numbers = der.private_numbers(self._secret_of(key))
        types = (CKA.MODULUS, CKA.PUBLIC_EXPONENT, CKA.PRIME_1, CKA.PRIME_2, CKA.EXPONENT_1, CKA.EXPONENT_2)
        modulus, public, prime, other, exponent, exponent_2 = (int.from_bytes(numbers[type_], "big") for type_ in types)
        number, blind = int.from_bytes(block, "big"), _coprime(modulus)
        blinded = number * pow(blind, public, modulus) % modulus
        at_prime, at_other = _power(blinded, exponent, prime), _power(blinded, exponent_2, other)
        factor = (at_prime - at_other) * pow(other, -1, prime) % prime
        result = (at_other + factor * other) * pow(blind, -1, modulus) % modulus
        if pow(result, public, modulus) != number:
            raise Error(CKR.FUNCTION_FAILED, "the RSA operation went wrong; its result would give the key away")
        return result.to_bytes(len(block), "big")

    def ecdsa(self, key: Object, digest: bytes) -> tuple[int, int]:
        """Sign a digest of 32, 48 or 64 bytes and return r and s."""
        return decode_dss_signature(_ec_key(self._secret_of(key)).sign(digest, ec.ECDSA(prehashed(len(digest)))))

    def ecdh(self, key: Object, point: tuple[int, int]) -> bytes:
        """Multiply a key and a point of its curve and return the x coordinate, as long as the field."""
        private = _ec_key(self._secret_of(key))
        return private.exchange(ec.ECDH(), ec.EllipticCurvePublicNumbers(*point, private.curve).public_key())


def _coprime(modulus: int) -> int:
    """Return a random number that has an inverse."""
    while True:
        number = int.from_bytes(urandom((modulus.bit_length() + 7) // 8 + _NOISE), "big") % modulus
        if gcd(number, modulus) == 1:
            return number


def _power(base: int, exponent: int, prime: int) -> int:
    """Raise to a power modulo a prime, with another exponent of the same value each time."""
    return pow(base, exponent + int.from_bytes(urandom(_NOISE), "big") * (prime - 1), prime)


def _ec_key(pkcs8: bytes) -> ec.EllipticCurvePrivateKey:
    numbers = der.private_numbers(pkcs8)
    return ec.derive_private_key(int.from_bytes(numbers[CKA.VALUE], "big"), ec_curve(curve_of(numbers[CKA.EC_PARAMS])))
