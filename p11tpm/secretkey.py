"""A secret key to be made: its template, checked and completed, and the value that it gets."""

from __future__ import annotations

from p11tpm import attribute
from p11tpm.attribute import FALSE, TRUE, Template, to_ulong, ulong
from p11tpm.checkvalue import check_value
from p11tpm.ck import CKA, CKK, CKO, CKR
from p11tpm.error import Error
from p11tpm.mechanism import AES_SIZES, LONGEST_SECRET, SECRETS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.token import Token


class SecretKey:
    """What a host asks of a new secret key, however its value comes about (clause 4.10).

    `length` is what the template says of it in bytes, None if nothing.
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
        self._check_value = self.attributes.pop(CKA.CHECK_VALUE, b"")
        self.length = None if given is None else to_ulong(given)

    def check_length(self, length: int) -> None:
        """Refuse a length in bytes that such a key can not have: CKR_KEY_SIZE_RANGE."""
        if not (length in AES_SIZES if self.key_type == CKK.AES else 0 < length <= LONGEST_SECRET):
            raise Error(CKR.KEY_SIZE_RANGE, f"a key of this type can not have {length} bytes")

    def add(
        self,
        token: Token,
        value: bytes,
        origin: Template,
        session: int,
        *,
        was_secret: bool,
        never_left: bool | None = None,
    ) -> int:
        """Add the key to the token and give its identifier.

        `origin`: what the token says of where the value comes from (CKA_LOCAL, CKA_KEY_GEN_MECHANISM). `was_secret`:
        the value never was outside of the token: CKA_ALWAYS_SENSITIVE and CKA_NEVER_EXTRACTABLE follow the template;
        `never_left` is for the latter alone, where it differs.
        """
        if self.length not in {None, len(value)}:
            raise Error(CKR.TEMPLATE_INCONSISTENT, "CKA_VALUE_LEN is not the length of the value")
        self.check_length(len(value))
        if self._check_value:
            attribute.check_known(
                {CKA.CHECK_VALUE: self._check_value}, {CKA.CHECK_VALUE: check_value(self.key_type, value)}
            )
        attributes = {**self.attributes, **origin, CKA.VALUE_LEN: ulong(len(value))}
        attributes[CKA.ALWAYS_SENSITIVE] = attributes[CKA.SENSITIVE] if was_secret else FALSE
        kept = was_secret if never_left is None else never_left
        attributes[CKA.NEVER_EXTRACTABLE] = TRUE if kept and attributes[CKA.EXTRACTABLE] != TRUE else FALSE
        with token.lock:
            token.require_writer(attributes)
            return token.add([token.new_record(attributes, value)], session)[0]
