"""A secret key to be made: its template, checked and completed, and the value that it gets."""

from __future__ import annotations

from p11tpm import attribute
from p11tpm.attribute import TRUE, Template, to_ulong, ulong
from p11tpm.ck import CKA, CKK, CKO, CKR
from p11tpm.core.randomness import secret_bytes
from p11tpm.crypto.check_value import check_value
from p11tpm.error import Error
from p11tpm.family import placement
from p11tpm.mechanism import AES_SIZES, DES_SIZES, LONGEST_SECRET, SECRETS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism

# Every byte of a DES key, with as many bits set that their number is odd: the last one makes it so
_ODD = bytes(byte & 0xFE | (byte >> 1).bit_count() & 1 ^ 1 for byte in range(256))

_LENGTHS: dict[int, tuple[int, ...]] = {CKK.AES: AES_SIZES, **{key: (size,) for key, size in DES_SIZES.items()}}


class SecretKey:
    """What a host asks of a new secret key, however its value comes about (clause 4.10).

    `length` is what the template says of it in bytes, or what all keys of the type have; None if neither says anything.
    """

    def __init__(self, template: Template, how: str, key_type: int | None = None) -> None:
        """Check the template; `key_type` is that of the mechanism, None if the template has to tell it.

        Raises the codes of `attribute.complete`, and CKR_TEMPLATE_INCOMPLETE or CKR_ATTRIBUTE_VALUE_INVALID for a
        missing or unknown key type.
        """
        if key_type is None:
            if CKA.KEY_TYPE not in template:
                raise Error(CKR.TEMPLATE_INCOMPLETE, "the template lacks CKA_KEY_TYPE")
            key_type = to_ulong(template[CKA.KEY_TYPE])
        if key_type not in SECRETS:
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "the token has no secret keys of this type")
        self.key_type = key_type
        self.attributes = attribute.complete(template, CKO.SECRET_KEY, key_type, how)
        self.attributes.pop(CKA.VALUE, None)
        given = self.attributes.pop(CKA.VALUE_LEN, None)
        self._check_value = self.attributes.get(CKA.CHECK_VALUE, b"")  # an empty one stays: the key has none then
        self.length = DES_SIZES.get(key_type) if given is None else to_ulong(given)

    def check_length(self, length: int) -> None:
        """Refuse a length in bytes that such a key cannot have: CKR_KEY_SIZE_RANGE."""
        if length not in _LENGTHS.get(self.key_type, range(1, LONGEST_SECRET + 1)):
            raise Error(CKR.KEY_SIZE_RANGE, f"a key of this type cannot have {length} bytes")

    def shaped(self, value: bytes) -> bytes:
        """Return the form that a value which the token makes has in such a key: DES has parity bits (clause 2.16)."""
        return value.translate(_ODD) if self.key_type in DES_SIZES else value

    def add(
        self,
        token: Token,
        value: bytes | None,
        origin: Template,
        session: int,
        *,
        was_secret: bool,
        never_left: bool | None = None,
    ) -> int:
        """Add the key to the token and give its identifier.

        `value` is None for a key that the TPM makes, see `placement`. `origin`: what the token says of where the value
        comes from (CKA_LOCAL, CKA_KEY_GEN_MECHANISM). `was_secret`: the value never was outside of the token:
        CKA_ALWAYS_SENSITIVE and CKA_NEVER_EXTRACTABLE follow the template; `never_left` is for the latter alone, where
        it differs.
        """
        length = len(value) if value is not None else self.length or 0
        if self.length not in {None, length} and self.key_type not in DES_SIZES:
            raise Error(CKR.TEMPLATE_INCONSISTENT, "CKA_VALUE_LEN is not the length of the value")
        self.check_length(length)
        attributes = {**self.attributes, **origin}
        if self._check_value:  # it is kept by nobody: the key tells it
            known = b"" if value is None else check_value(self.key_type, value)
            attribute.check_known({CKA.CHECK_VALUE: self._check_value}, {CKA.CHECK_VALUE: known})
            del attributes[CKA.CHECK_VALUE]
        if self.key_type not in DES_SIZES:
            attributes[CKA.VALUE_LEN] = ulong(length)
        kept = was_secret if never_left is None else never_left
        attributes |= attribute.protection(attributes, was_sensitive=was_secret, never_left=kept)
        with token.objects.adding(session, attributes) as adding:
            record = adding.add(attributes, placement.place(token, attributes, value, length))
        return record.id


def generate(token: Token, row: Mechanism, template: Template, session: int) -> int:
    """Make a secret key of random bytes and give its identifier."""
    (key_type,) = row.keys
    key = SecretKey(template, attribute.GENERATE, key_type)
    if key.length is None:
        raise Error(CKR.TEMPLATE_INCOMPLETE, "the template lacks CKA_VALUE_LEN")
    key.check_length(key.length)
    token.require_writer(key.attributes)
    value = None
    if not placement.made_by_tpm(token, key.attributes, key.length):
        value = key.shaped(secret_bytes(token, key.length, kept=key.attributes[CKA.TOKEN] == TRUE))
    return key.add(token, value, attribute.of_generated_key(row.type), session, was_secret=True)
