"""A private key from outside that the TPM can have: its template, checked and completed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization

from p11tpm import attribute
from p11tpm.attribute import Template, row_of, to_ulong
from p11tpm.ck import CKA, CKO, CKR, name
from p11tpm.core.key_material import KeyMaterial
from p11tpm.error import Error
from p11tpm.family import placement

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from p11tpm.core.token import Token

# What a template may say of the public key, although the private one's numbers say it too; empty ones are none
_OF_PUBLIC = (CKA.EC_POINT, CKA.PUBLIC_KEY_INFO)


def pkcs8(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey,
) -> bytes:
    """Encode a private key as a PrivateKeyInfo (RFC 5208)."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())


class PrivateKey(ABC):
    """A private key that a host describes by its numbers, which are checked here.

    Of what `_take_numbers` finds, `_word` is the capability that the TPM needs for the key, `_too_big` the error if it
    does not have it, and `_public` and `_number` are what the TPM imports: a TPMT_PUBLIC and the secret number.
    """

    _word: str
    _too_big: Error
    _public: bytes
    _number: bytes

    def __init__(self, template: Template, how: str) -> None:
        """Check the template, which has the numbers.

        Raises the codes of `attribute.complete`, CKR_TEMPLATE_INCOMPLETE, CKR_KEY_SIZE_RANGE or CKR_CURVE_NOT_SUPPORTED
        for what no TPM has, and CKR_ATTRIBUTE_VALUE_INVALID for numbers that make no key.
        """
        said = {type_: template[type_] for type_ in _OF_PUBLIC if template.get(type_)}
        others = {type_: value for type_, value in template.items() if type_ not in _OF_PUBLIC}
        self.attributes = attribute.complete(others, CKO.PRIVATE_KEY, to_ulong(template[CKA.KEY_TYPE]), how)
        self._points: set[bytes] = set()
        self._key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
        parts = self._take_parts()
        numbers = self._take_numbers(parts)
        for type_, value in said.items():
            if value not in {numbers.get(type_), *self._points}:
                raise Error(CKR.ATTRIBUTE_VALUE_INVALID, f"{name(CKA, type_)} is not that of the private key")
        kept = (CKA.MODULUS, CKA.PUBLIC_EXPONENT, CKA.EC_PARAMS, CKA.PUBLIC_KEY_INFO)
        self.attributes |= {type_: numbers[type_] for type_ in kept if type_ in numbers}
        self.attributes |= attribute.of_created_private_key()

    def _take_parts(self) -> dict[int, int]:
        """Remove the private numbers from the attributes; an empty one is as good as none."""
        parts = {}
        for type_ in list(self.attributes):
            row = row_of(CKO.PRIVATE_KEY, to_ulong(self.attributes[CKA.KEY_TYPE]), type_)
            if row is not None and row.sensitive:
                number = int.from_bytes(self.attributes.pop(type_), "big")
                if number:
                    parts[type_] = number
        return parts

    @abstractmethod
    def _take_numbers(self, parts: dict[int, int]) -> Template:
        """Check the numbers, of which `parts` are the private ones, and return what they say of the public key."""

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
