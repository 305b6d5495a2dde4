"""Copies of objects (C_CopyObject, clause 5.7.2)."""

from __future__ import annotations

from p11tpm import attribute
from p11tpm.ck import CKA, CKO, CKU
from p11tpm.host.imports import import_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.store.rows import Record


def copy_object(token: Token, original: Object, changes: Template, session: int) -> int:
    """Make a copy of an object that has these attributes instead of its own, and give its identifier.

    A key in the TPM is the same key, under an authorisation value of the copy's; one in software goes into the TPM if a
    new key with the copy's attributes does. Raises the codes of `attribute.check_copy`, CKR_USER_NOT_LOGGED_IN,
    CKR_TOKEN_WRITE_PROTECTED.
    """
    attribute.check_copy(original.attributes, changes)
    original.check_stays(changes)
    attributes = {**original.attributes, **changes}
    with token.lock:
        if CKA.TRUSTED in attributes and token.logged_in != CKU.SO:
            attributes[CKA.TRUSTED] = attribute.FALSE  # it is the SO who trusts a key
        token.require_writer(attributes)
        secret = None if original.record.secret is None else original.hidden()
        record = token.new_record(attributes, secret)
        if original.in_tpm:
            blob = token.tpm.change_auth(original.record, token.new_auth(record))
            record.tpm_public, record.tpm_private = blob.public, blob.private
        elif secret is not None:
            _settle(token, record, secret)
        return token.add([record], session)[0]


def _settle(token: Token, record: Record, secret: bytes) -> None:
    """Place the copy of a key in software."""
    object_class, key_type = attribute.kind(record.attributes)
    with import_lock:
        from p11tpm.crypto import der
        from p11tpm.keys import placement
        from p11tpm.keys.private_key import PrivateKey

    if object_class == CKO.SECRET_KEY:
        placement.place_in_tpm(token, record, len(secret))
    elif key_type in attribute.PAIR_TYPES:
        PrivateKey(der.private_numbers(secret), attribute.CREATE).settle(token, record)
