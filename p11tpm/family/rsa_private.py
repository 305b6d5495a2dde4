"""An RSA private key from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import rsa

from p11tpm.ck import CKA, CKR
from p11tpm.crypto import der
from p11tpm.error import Error
from p11tpm.family.private_key import PrivateKey
from p11tpm.mechanism import RSA_SIZES
from p11tpm.tpm import template

if TYPE_CHECKING:
    from p11tpm.attribute import Template


class RsaKey(PrivateKey):
    """An RSA private key.

    It wants CKA_PRIME_1 or CKA_PRIME_2 or CKA_PRIVATE_EXPONENT and, unless there are both primes, CKA_MODULUS.
    """

    def _take_numbers(self, parts: dict[int, int]) -> Template:
        exponent = int.from_bytes(self.attributes[CKA.PUBLIC_EXPONENT], "big")
        if not (exponent & 1 and 2 < exponent < 1 << 32):
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "a public exponent is odd and has 32 bits at the most")
        modulus = int.from_bytes(self.attributes.get(CKA.MODULUS, b""), "big")
        if max(modulus, *parts.values(), 0).bit_length() > max(RSA_SIZES):
            raise Error(CKR.KEY_SIZE_RANGE, f"an RSA key has {max(RSA_SIZES)} bits at the most")
        self._key = key = _rsa_key(modulus, exponent, parts)
        bits = key.key_size
        self._word = f"rsa{bits}"
        self._too_big = Error(CKR.KEY_SIZE_RANGE, f"this TPM has no RSA keys of {bits} bits")
        numbers = key.private_numbers()
        if {numbers.p.bit_length(), numbers.q.bit_length()} != {bits // 2}:
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "the TPM wants the two primes of a key to be of the same size")
        modulus = numbers.public_numbers.n
        self._public = template.imported_rsa(modulus, exponent)
        self._number = numbers.p.to_bytes(bits // 16, "big")
        return der.rsa_public(modulus, exponent)


def _rsa_key(modulus: int, exponent: int, parts: dict[int, int]) -> rsa.RSAPrivateKey:
    """Make a key of what is given of it, all of which has to fit together."""
    prime, other, private = (parts.get(type_, 0) for type_ in (CKA.PRIME_1, CKA.PRIME_2, CKA.PRIVATE_EXPONENT))
    modulus = modulus or prime * other
    if not modulus or not (prime or other or private):
        raise Error(CKR.TEMPLATE_INCOMPLETE, "the template lacks CKA_MODULUS, or a prime or CKA_PRIVATE_EXPONENT")
    if modulus.bit_length() not in RSA_SIZES:
        raise Error(CKR.KEY_SIZE_RANGE, f"there are no RSA keys of {modulus.bit_length()} bits in a TPM")
    key = None
    try:
        if not (prime or other):
            prime, other = rsa.rsa_recover_prime_factors(modulus, exponent, private)
        prime = prime or modulus // other
        other = other or modulus // prime
        private = private or rsa.rsa_recover_private_exponent(exponent, prime, other)
        for pair in ((prime, other), (other, prime)):
            numbers = _numbers(*pair, private)
            if parts.items() <= numbers.items():
                public = rsa.RSAPublicNumbers(exponent, modulus)
                *_, one, two, inverse = numbers.values()
                key = rsa.RSAPrivateNumbers(*pair, private, one, two, inverse, public).private_key()
                break
    except (ValueError, ZeroDivisionError):
        pass
    if key is None:
        raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "the numbers make no RSA key")
    return key


def _numbers(prime: int, other: int, private: int) -> dict[int, int]:
    """Return all of a key's private numbers, as they belong to its primes in this order."""
    return {
        CKA.PRIME_1: prime,
        CKA.PRIME_2: other,
        CKA.PRIVATE_EXPONENT: private,
        CKA.EXPONENT_1: private % (prime - 1),
        CKA.EXPONENT_2: private % (other - 1),
        CKA.COEFFICIENT: pow(other, -1, prime),
    }
