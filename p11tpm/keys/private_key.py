"""A private key from outside: its template, checked and completed, and what the TPM has to know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asn1crypto import core
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from p11tpm import attribute
from p11tpm.algorithm import CURVES
from p11tpm.attribute import FALSE, Template, row_of, to_ulong
from p11tpm.ck import CKA, CKK, CKO, CKR, name
from p11tpm.core.key_material import KeyMaterial
from p11tpm.crypto import der
from p11tpm.crypto.public import ec_curve
from p11tpm.error import Error
from p11tpm.keys import placement
from p11tpm.keys.extractable import pkcs8
from p11tpm.mechanism import RSA_SIZES, curve_of
from p11tpm.tpm import template as tpm_template

if TYPE_CHECKING:
    from p11tpm.core.token import Token

# What a template may say of the public key, although the private one's numbers say it too; empty ones are none
_OF_PUBLIC = (CKA.EC_POINT, CKA.PUBLIC_KEY_INFO)


class PrivateKey:
    """A private key that a host describes by its numbers, which are checked here."""

    def __init__(self, template: Template, how: str) -> None:
        """Check the template, which has the numbers.

        RSA wants CKA_PRIME_1 or CKA_PRIME_2 or CKA_PRIVATE_EXPONENT and, unless there are both primes, CKA_MODULUS;
        EC wants CKA_EC_PARAMS and CKA_VALUE. Raises the codes of `attribute.complete`, CKR_TEMPLATE_INCOMPLETE,
        CKR_KEY_SIZE_RANGE or CKR_CURVE_NOT_SUPPORTED for what no TPM has, and CKR_ATTRIBUTE_VALUE_INVALID for numbers
        that make no key.
        """
        if CKA.KEY_TYPE not in template:
            raise Error(CKR.TEMPLATE_INCOMPLETE, "the template lacks CKA_KEY_TYPE")
        self.key_type = to_ulong(template[CKA.KEY_TYPE])
        if self.key_type not in attribute.PAIR_TYPES:
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "the token has no private keys of this type")
        said = {type_: template[type_] for type_ in _OF_PUBLIC if template.get(type_)}
        others = {type_: value for type_, value in template.items() if type_ not in _OF_PUBLIC}
        self.attributes = attribute.complete(others, CKO.PRIVATE_KEY, self.key_type, how)
        self._points: set[bytes] = set()
        self._key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
        parts = self._take_parts()
        numbers = self._rsa(parts) if self.key_type == CKK.RSA else self._ec(parts)
        for type_, value in said.items():
            if value not in {numbers.get(type_), *self._points}:
                raise Error(CKR.ATTRIBUTE_VALUE_INVALID, f"{name(CKA, type_)} is not that of the private key")
        kept = (CKA.MODULUS, CKA.PUBLIC_EXPONENT, CKA.EC_PARAMS, CKA.PUBLIC_KEY_INFO)
        self.attributes |= {type_: numbers[type_] for type_ in kept if type_ in numbers}
        self.attributes |= attribute.of_created_key()
        self.attributes |= {CKA.ALWAYS_SENSITIVE: FALSE, CKA.NEVER_EXTRACTABLE: FALSE}

    def _take_parts(self) -> dict[int, int]:
        """Remove the private numbers from the attributes; an empty one is as good as none."""
        parts = {}
        for type_ in list(self.attributes):
            row = row_of(CKO.PRIVATE_KEY, self.key_type, type_)
            if row is not None and row.sensitive:
                number = int.from_bytes(self.attributes.pop(type_), "big")
                if number:
                    parts[type_] = number
        return parts

    def _rsa(self, parts: dict[int, int]) -> Template:
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
        self._public = tpm_template.imported_rsa(modulus, exponent)
        self._number = numbers.p.to_bytes(bits // 16, "big")
        return der.rsa_public(modulus, exponent)

    def _ec(self, parts: dict[int, int]) -> Template:
        for type_, there in ((CKA.EC_PARAMS, self.attributes), (CKA.VALUE, parts)):
            if type_ not in there:
                raise Error(CKR.TEMPLATE_INCOMPLETE, f"the template lacks {name(CKA, type_)}")
        curve = curve_of(self.attributes[CKA.EC_PARAMS])
        self._word = curve
        self._too_big = Error(CKR.CURVE_NOT_SUPPORTED, f"this TPM does not have the curve {curve}")
        try:
            self._key = ec.derive_private_key(parts[CKA.VALUE], ec_curve(curve))
        except UnsupportedAlgorithm:
            raise Error(CKR.CURVE_NOT_SUPPORTED, f"libcrypto does not have the curve {curve}") from None
        except ValueError:
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_VALUE is not a private key on this curve") from None
        point = self._key.public_key().public_numbers()
        size = CURVES[curve].size
        numbers = der.ec_public(curve, point.x, point.y)
        x, y, self._number = (number.to_bytes(size, "big") for number in (point.x, point.y, parts[CKA.VALUE]))
        self._public = tpm_template.imported_ec(curve, x, y)
        points = (b"\x04" + x + y, bytes((2 + point.y % 2,)) + x)  # SEC 1, clause 2.3.3
        self._points = {form for point in points for form in (point, core.OctetString(point).dump())}
        return numbers

    def add(self, token: Token, session: int) -> int:
        """Add the key to the token and give its identifier.

        CKR_KEY_SIZE_RANGE or CKR_CURVE_NOT_SUPPORTED for what this TPM does not have, CKR_ATTRIBUTE_VALUE_INVALID for
        what it does not take.
        """
        with token.objects.adding(session, self.attributes) as adding:
            if self._word not in token.capabilities:
                raise self._too_big
            record = adding.add(self.attributes, self.place(token, self.attributes))
        return record.id

    def place(self, token: Token, attributes: Template) -> KeyMaterial:
        """Place the key of an object with these attributes: in the TPM, or in software, see `placement`."""
        if placement.in_software(attributes):
            return KeyMaterial(pkcs8(self._key))
        return token.tpm.import_key(self._public, self._number)


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
