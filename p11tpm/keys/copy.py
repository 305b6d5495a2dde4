"""Copies of objects (C_CopyObject, clause 5.7.2)."""

from __future__ import annotations

from p11tpm import attribute
from p11tpm.ck import CKA, CKO, CKU
from p11tpm.core.key_material import KeyMaterial
from p11tpm.family import placement
from p11tpm.family.family import of_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token


def copy_object(token: Token, original: Object, changes: Template, session: int) -> int:
    """Make a copy of an object that has these attributes instead of its own, and give its identifier.

    A key in the TPM is the same key, under an authorisation value of the copy's; one in software goes into the TPM if a
    new key with the copy's attributes does. Raises the codes of `attribute.check_copy`, CKR_USER_NOT_LOGGED_IN,
    CKR_TOKEN_WRITE_PROTECTED.
    """
    attribute.check_copy(original.attributes, changes)
    original.check_stays(changes)
    attributes = {**original.attributes, **changes}
    if CKA.TRUSTED in attributes and token.logged_in != CKU.SO:
        attributes[CKA.TRUSTED] = attribute.FALSE  # it is the SO who trusts a key
    with token.objects.adding(session, attributes) as adding:
        record = adding.add(attributes, _copied(token, original, attributes))
    return record.id


def _copied(token: Token, original: Object, attributes: Template) -> KeyMaterial:
    """Copy what there is of an object beside its attributes."""
    secret = None if original.record.secret is None else original.hidden()
    if original.in_tpm:
        made = token.tpm.copy(original.record)
        made.secret = secret
        return made
    if secret is None:
        return KeyMaterial()
    object_class, key_type = attribute.kind(attributes)
    if object_class == CKO.SECRET_KEY:
        return placement.place(token, attributes, secret, len(secret))
    found = of_keys(key_type)
    return KeyMaterial(secret) if found is None else found.place(token, attributes, secret)
