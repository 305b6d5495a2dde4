"""Keys derived from keys (C_DeriveKey, clause 5.18.5)."""

from __future__ import annotations

from p11tpm import attribute
from p11tpm.attribute import FALSE, TRUE, to_ulong, ulong
from p11tpm.ck import CKA, CKF, CKK, CKM, CKO, CKR, name
from p11tpm.error import Error
from p11tpm.family.family import family
from p11tpm.family.secret_key import SecretKey
from p11tpm.mechanism import APPEND, JOIN_KEY, LONGEST_SECRET, PREPEND, XOR
from p11tpm.operation.use import check_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from p11tpm.attribute import Template
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.given import Given

# Forms whose result holds the base key as it is, and so has to be as protected (clauses 2.43.3 to 2.43.6)
_JOINED = {JOIN_KEY, APPEND, PREPEND, XOR}


def derive_key(
    token: Token, find: Callable[[int], Object], base: Object, given: Given, template: Template, session: int = 0
) -> int:
    """Make a secret key, or for CKM_HKDF_DATA a data object, from a key and give its identifier.

    `find` gives the key behind a handle in the mechanism's parameter. Raises the codes of `check_use` and `SecretKey`,
    CKR_MECHANISM_PARAM_INVALID, CKR_TEMPLATE_INCOMPLETE for an AES key without a length, CKR_TEMPLATE_INCONSISTENT for
    a longer key than there are bytes or for one that is less protected than what it holds.
    """
    derivation = Derivation(token, find, base, given)
    derivation.check_template(template)
    if given.type == CKM.HKDF_DATA:
        return _add_data(token, derivation, template, session)
    key = SecretKey(template, attribute.GENERATE, to_ulong(template.get(CKA.KEY_TYPE, ulong(CKK.GENERIC_SECRET))))
    if key.length is not None:
        key.check_length(key.length)
    elif key.key_type == CKK.AES:
        raise Error(CKR.TEMPLATE_INCOMPLETE, "the template lacks CKA_VALUE_LEN, and AES keys have several lengths")
    derivation.protect(key.attributes, template)
    token.require_writer(key.attributes)
    value = key.shaped(derivation.value(key.length))
    was_sensitive, never_left = (derivation.inherited(type_) for type_ in (CKA.ALWAYS_SENSITIVE, CKA.NEVER_EXTRACTABLE))
    origin = attribute.of_created_key()  # CKA_LOCAL is for keys that were generated (clause 4.7)
    return key.add(token, value, origin, session, was_secret=was_sensitive, never_left=never_left)


def _add_data(token: Token, derivation: Derivation, template: Template, session: int) -> int:
    """Add a data object with the derived bytes; CKA_VALUE_LEN says how many (clause 2.58.5)."""
    template = {**template}
    length = template.pop(CKA.VALUE_LEN, None)
    if CKA.VALUE in template:
        raise Error(CKR.ATTRIBUTE_READ_ONLY, "CKA_VALUE is what is derived")
    wanted = None if length is None else to_ulong(length)
    if wanted is not None and not 0 < wanted <= LONGEST_SECRET:
        raise Error(CKR.KEY_SIZE_RANGE, f"1 to {LONGEST_SECRET} bytes can be derived")
    attributes = attribute.complete({CKA.CLASS: ulong(CKO.DATA), **template}, CKO.DATA, None, attribute.CREATE)
    token.require_writer(attributes)
    attributes[CKA.VALUE] = derivation.value(wanted)
    return token.objects.add(attributes, session)


class Derivation:
    """A mechanism with its parameter and the keys that it starts from."""

    def __init__(self, token: Token, find: Callable[[int], Object], base: Object, given: Given) -> None:
        """Check that the keys may be used; see `derive_key` for the errors."""
        self._token = token
        self._row = row = token.mechanism(given.type, CKF.DERIVE)
        self._params: Any = row.params(given)
        check_use(base, row, CKA.DERIVE, CKO.PRIVATE_KEY, CKO.SECRET_KEY)
        self._keys = [base]
        if other := getattr(self._params, "key", 0):
            self._keys.append(find(other))
            check_use(self._keys[1], row, CKA.DERIVE, CKO.SECRET_KEY)
        self._bases = self._keys if row.form == JOIN_KEY else [base]  # those that the result is made of

    # -- what becomes of the attributes

    def check_template(self, template: Template) -> None:
        """Refuse a template without what a key's CKA_DERIVE_TEMPLATE demands: CKR_TEMPLATE_INCONSISTENT (clause 4.10).

        The template of the base key itself has been added to it before.
        """
        for key in self._keys:
            if not attribute.unpack(key.attributes.get(CKA.DERIVE_TEMPLATE, b"")).items() <= template.items():
                raise Error(CKR.TEMPLATE_INCONSISTENT, "the template is not as a key's CKA_DERIVE_TEMPLATE demands")

    def protect(self, attributes: Template, template: Template) -> None:
        """Make a key that holds others as protected as they are; CKR_TEMPLATE_INCONSISTENT if it was to be less.

        All other results tell nothing of the base key, and the template alone decides (clauses 2.3.17, 2.15, 2.43.7).
        """
        if self._row.form not in _JOINED:
            return
        for type_, value in ((CKA.SENSITIVE, TRUE), (CKA.EXTRACTABLE, FALSE)):
            if any(base.is_set(type_) == (value == TRUE) for base in self._bases):
                if template.get(type_, value) != value:
                    raise Error(CKR.TEMPLATE_INCONSISTENT, f"{name(CKA, type_)} is that of the base key")
                attributes[type_] = value

    def inherited(self, type_: int) -> bool:
        """Return whether all base keys have CKA_ALWAYS_SENSITIVE or CKA_NEVER_EXTRACTABLE."""
        return all(base.is_set(type_) for base in self._bases)

    # -- the value

    def value(self, length: int | None) -> bytes:
        """Derive `length` bytes, or as many as the mechanism gives."""
        return family(self._row.family).derive(self._token, self._keys, self._row, self._params, length)
