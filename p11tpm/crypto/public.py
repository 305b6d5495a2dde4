"""Public keys at work: in software, without a login and without the TPM."""

from __future__ import annotations

from p11tpm.algorithm import CURVES, HASHES
from p11tpm.ck import CKA, CKK, CKR
from p11tpm.error import Error
from p11tpm.host.imports import Late
from p11tpm.mechanism import curve_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, utils
    from cryptography.hazmat.primitives.asymmetric.dsa import DSAPublicKey
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurve, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

    class Key(Protocol):
        """A public key as its attributes describe it: an `Object`, for one."""

        key_type: int | None

        def get(self, type_: int, /) -> bytes:
            """Return the value of an attribute."""
else:
    dsa = Late("cryptography.hazmat.primitives.asymmetric.dsa")
    ec = Late("cryptography.hazmat.primitives.asymmetric.ec")
    rsa = Late("cryptography.hazmat.primitives.asymmetric.rsa")
    utils = Late("cryptography.hazmat.primitives.asymmetric.utils")
    hashes = Late("cryptography.hazmat.primitives.hashes")


_SIZES = range(512, 16384 + 1)  # bits of an RSA modulus that came from anywhere: more would take minutes
_LONGEST_EXPONENT = 256  # bits: FIPS 186-5, appendix A.1.1


def public_key(key: Key) -> RSAPublicKey | EllipticCurvePublicKey:
    """Return a public key as the package cryptography has it.

    Raises CKR_KEY_SIZE_RANGE or CKR_KEY_TYPE_INCONSISTENT for numbers that make no key.
    """
    return rsa_key(key) if key.key_type == CKK.RSA else ec_key(key)


def rsa_key(key: Key) -> RSAPublicKey:
    """Return an RSA public key; CKR_KEY_SIZE_RANGE if its numbers make none."""
    modulus, exponent = rsa_numbers(key)
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise Error(CKR.KEY_SIZE_RANGE, "these numbers make no RSA key") from None


def ec_key(key: Key) -> EllipticCurvePublicKey:
    """Return an EC public key; CKR_KEY_TYPE_INCONSISTENT if its point is not on its curve."""
    name = curve_of(key.get(CKA.EC_PARAMS))
    size = CURVES[name].size
    point = key.get(CKA.EC_POINT)[-(1 + 2 * size) :]  # without the head of the OCTET STRING
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec_curve(name), point)
    except ValueError:
        raise Error(CKR.KEY_TYPE_INCONSISTENT, "the point is not on the curve") from None


def dsa_key(key: Key) -> DSAPublicKey:
    """Return a DSA public key; CKR_KEY_SIZE_RANGE if its numbers make none."""
    types = (CKA.PRIME, CKA.SUBPRIME, CKA.BASE, CKA.VALUE)
    prime, subprime, base, value = (int.from_bytes(key.get(type_), "big") for type_ in types)
    try:
        return dsa.DSAPublicNumbers(value, dsa.DSAParameterNumbers(prime, subprime, base)).public_key()
    except ValueError:
        raise Error(CKR.KEY_SIZE_RANGE, "these numbers make no DSA key") from None


def ec_curve(name: str) -> EllipticCurve:
    """Return a curve of `algorithm.CURVES` as the package cryptography has it."""
    curve: EllipticCurve = getattr(ec, f"SECP{CURVES[name].bits}R1")()
    return curve


def hash_algorithm(name: str) -> HashAlgorithm:
    """Return a hash of `algorithm.HASHES` as the package cryptography has it."""
    algorithm: HashAlgorithm = getattr(hashes, name.upper())()
    return algorithm


def prehashed(size: int) -> utils.Prehashed:
    """Return a hash of `size` bytes, one that TPMs or DSA have, that stands for this length alone."""
    return utils.Prehashed(hash_algorithm(next(name for name, hash_ in HASHES.items() if hash_.size == size)))


def rsa_numbers(key: Key) -> tuple[int, int]:
    """Return modulus and exponent of an RSA public key; CKR_KEY_SIZE_RANGE if they are of no size for RSA."""
    modulus = int.from_bytes(key.get(CKA.MODULUS), "big")
    exponent = int.from_bytes(key.get(CKA.PUBLIC_EXPONENT), "big")
    if modulus.bit_length() not in _SIZES or not 1 < exponent.bit_length() <= _LONGEST_EXPONENT:
        raise Error(CKR.KEY_SIZE_RANGE, "RSA with a modulus or an exponent of such a size is not to be had")
    return modulus, exponent


def rsa_raw(key: Key, block: bytes) -> bytes | None:
    """Perform the RSA public operation on a block as long as the modulus: as many bytes; None if it is not below it."""
    modulus, exponent = rsa_numbers(key)
    number = int.from_bytes(block, "big")
    return pow(number, exponent, modulus).to_bytes(len(block), "big") if number < modulus else None
