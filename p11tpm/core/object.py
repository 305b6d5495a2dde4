"""One object of a token: its attributes as the host may see them."""

from __future__ import annotations

from p11tpm.algorithm import CURVES
from p11tpm.attribute import PAIR_TYPES, TEMPLATES, TRUE, Template, kind, row_of, to_ulong
from p11tpm.ck import CKA, CKK, CKO, CKR, name
from p11tpm.error import Error
from p11tpm.host.imports import Late
from p11tpm.mechanism import curve_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from p11tpm.crypto import check_value, der
    from p11tpm.store import Record
else:
    check_value = Late("p11tpm.crypto.check_value")
    der = Late("p11tpm.crypto.der")


class Object:
    """A data object, certificate or key, as it was when it was read; `reveal` decrypts the value of a secret key."""

    __slots__ = ("_reveal", "_value", "key_type", "object_class", "record", "waits")

    def __init__(
        self, record: Record, value: bytes | None = None, reveal: Callable[[Record], bytes] | None = None
    ) -> None:
        self.record = record
        self.object_class, self.key_type = kind(record.attributes)
        self._value = value  # CKA_VALUE of a private data object, decrypted
        self._reveal = reveal
        self.waits = record.attributes.get(CKA.ALWAYS_AUTHENTICATE) == TRUE  # for a PIN before it may be used

    def for_one_use(self) -> Object:
        """Return the same object, with a wait of its own."""
        return Object(self.record, self._value, self._reveal)

    @property
    def attributes(self) -> Template:
        """Every attribute that has a value."""
        if self._value is None:
            return self.record.attributes
        return {**self.record.attributes, CKA.VALUE: self._value}

    def is_set(self, type_: int) -> bool:
        """Return whether a boolean attribute is there and true."""
        return self.record.attributes.get(type_) == TRUE

    @property
    def private(self) -> bool:
        """Whether the object is for the logged-in user only (CKA_PRIVATE)."""
        return self.is_set(CKA.PRIVATE)

    @property
    def in_tpm(self) -> bool:
        """Whether a key's secret part is one that the TPM alone can use."""
        return self.record.tpm_private is not None

    @property
    def readable(self) -> bool:
        """Whether the host may read the secret part of a key (clauses 4.9 and 4.10)."""
        return self.is_set(CKA.EXTRACTABLE) and not self.is_set(CKA.SENSITIVE)

    def secret(self) -> bytes:
        """Return the value of a secret key in software for use by the token; CKR_KEY_TYPE_INCONSISTENT for other keys.

        Private keys are used by `TokenTpm.secret_of`, which counts the use.
        """
        if self.object_class != CKO.SECRET_KEY or self.record.secret is None or self.in_tpm:
            raise Error(CKR.KEY_TYPE_INCONSISTENT, "this is not a secret key, or it is one that the TPM alone can use")
        return self.hidden()

    def leaving(self) -> bytes:
        """Return the secret part of a key in software that leaves the token; CKR_KEY_UNEXTRACTABLE if it may not.

        A secret key: its value; RSA and EC: PKCS #8 DER; other private keys: the private number.
        """
        if not self.is_set(CKA.EXTRACTABLE) or self.record.secret is None or self.in_tpm:
            raise Error(CKR.KEY_UNEXTRACTABLE, "the key stays in the token")
        return self.hidden()

    def _part(self, type_: int) -> bytes:
        """Return the value of an attribute that is the secret part of a key in software, or a number of it."""
        if self.object_class != CKO.PRIVATE_KEY or self.key_type not in PAIR_TYPES:
            return self.leaving()
        return der.private_numbers(self.leaving())[type_]

    def _point(self) -> bytes:
        """Return the public point of an EC private key in a DER OCTET STRING, as its public key has it.

        The standard gives it to public keys only, but programs that have no public key object ask for it here.
        """
        size = CURVES[curve_of(self.get(CKA.EC_PARAMS))].size
        point = self.get(CKA.PUBLIC_KEY_INFO)[-(1 + 2 * size) :]  # a SubjectPublicKeyInfo ends with it
        return bytes((0x04, len(point)) if len(point) < 0x80 else (0x04, 0x81, len(point))) + point

    def hidden(self) -> bytes:
        """Return what the record keeps secret: the value of a key, or the check value of one in the TPM; else empty."""
        return b"" if self.record.secret is None or self._reveal is None else self._reveal(self.record)

    def get(self, type_: int) -> bytes:
        """Return the value of an attribute.

        Raises CKR_ATTRIBUTE_SENSITIVE for a private part and CKR_ATTRIBUTE_TYPE_INVALID for what the object does not
        have (PKCS#11 Base Specification 3.0, clause 5.7.5).
        """
        value = self.attributes.get(type_)
        if value is not None:
            return value
        row = row_of(self.object_class, self.key_type, type_)
        if row is not None and row.sensitive:
            if self.record.secret is not None and self.readable and not self.in_tpm:
                return self._part(type_)
            raise Error(CKR.ATTRIBUTE_SENSITIVE, f"{name(CKA, type_)} never leaves the token")
        if type_ == CKA.CHECK_VALUE and self.object_class == CKO.SECRET_KEY and self.key_type is not None:
            if self.in_tpm:
                return self.hidden()
            return check_value.check_value(self.key_type, self.secret())
        if type_ in TEMPLATES and row is not None:
            return b""
        if type_ == CKA.EC_POINT and self.object_class == CKO.PRIVATE_KEY and self.key_type == CKK.EC:
            return self._point()
        raise Error(CKR.ATTRIBUTE_TYPE_INVALID, f"the object has no {name(CKA, type_)}")

    def check_stays(self, changes: Template) -> None:
        """Refuse to make a secret key in the TPM one that others are derived from: CKR_ATTRIBUTE_READ_ONLY.

        The TPM does not do that; a key is in software for it from the beginning.
        """
        if self.in_tpm and self.object_class == CKO.SECRET_KEY and changes.get(CKA.DERIVE) == TRUE:
            raise Error(CKR.ATTRIBUTE_READ_ONLY, "a secret key in the TPM cannot get CKA_DERIVE")

    @property
    def size(self) -> int:
        """Bytes that the object takes: its attributes and what only the TPM can read."""
        record = self.record
        hidden = (record.tpm_public, record.tpm_private, record.secret)
        return sum(map(len, record.attributes.values())) + sum(len(blob) for blob in hidden if blob)

    def ulong(self, type_: int) -> int:
        """Return the value of a CK_ULONG attribute."""
        return to_ulong(self.get(type_))


def is_encrypted(attributes: Template) -> bool:
    """Return whether an object's value is stored encrypted."""
    return attributes[CKA.PRIVATE] == TRUE and to_ulong(attributes[CKA.CLASS]) == CKO.DATA
