"""Whether a key may be used for what a host asks."""

from __future__ import annotations

from p11tpm.ck import CKA, CKR, name
from p11tpm.error import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.object import Object
    from p11tpm.mechanism import Mechanism


def check_use(key: Object, row: Mechanism, usage: int, *classes: int) -> None:
    """Refuse a key that is not for this mechanism, or that its owner does not allow it for.

    `usage`: CKA_SIGN and the like, which must be true; `classes`: the CKO_ values of which the key must have one.
    Raises CKR_KEY_TYPE_INCONSISTENT, CKR_KEY_FUNCTION_NOT_PERMITTED, CKR_MECHANISM_INVALID (CKA_ALLOWED_MECHANISMS).
    """
    if key.object_class not in classes or key.key_type not in row.keys:
        raise Error(CKR.KEY_TYPE_INCONSISTENT, f"{row.name} does not work with such a key")
    if not key.is_set(usage):
        raise Error(CKR.KEY_FUNCTION_NOT_PERMITTED, f"the key's {name(CKA, usage)} is false")
    allowed = key.attributes.get(CKA.ALLOWED_MECHANISMS)
    if allowed and row.type not in {int.from_bytes(allowed[at : at + 8], "little") for at in range(0, len(allowed), 8)}:
        raise Error(CKR.MECHANISM_INVALID, f"the key's CKA_ALLOWED_MECHANISMS does not have {row.name}")
