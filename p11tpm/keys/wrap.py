"""Keys encrypted by keys (C_WrapKey and C_UnwrapKey, clauses 5.18.3 and 5.18.4)."""

from __future__ import annotations

from p11tpm import attribute
from p11tpm.attribute import to_ulong
from p11tpm.ck import CKA, CKF, CKK, CKO, CKR
from p11tpm.error import Error, answering
from p11tpm.family.family import family, of_keys
from p11tpm.family.secret_key import SecretKey
from p11tpm.host.imports import Late
from p11tpm.mechanism import CBC, ECB, RAW
from p11tpm.operation.use import check_use
from p11tpm.parameter import AES_BLOCK, DES_BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from p11tpm.attribute import Template
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.given import Given
    from p11tpm.keys import create
    from p11tpm.mechanism import Mechanism
else:
    create = Late("p11tpm.keys.create")

# What ciphers and checks of keys say, as it is said of keys that are wrapped
_WRAPPING = {
    CKR.KEY_TYPE_INCONSISTENT: CKR.WRAPPING_KEY_TYPE_INCONSISTENT,
    CKR.KEY_SIZE_RANGE: CKR.WRAPPING_KEY_SIZE_RANGE,
    CKR.DATA_LEN_RANGE: CKR.KEY_SIZE_RANGE,
    CKR.DATA_INVALID: CKR.KEY_SIZE_RANGE,
}
_UNWRAPPING = {
    CKR.KEY_TYPE_INCONSISTENT: CKR.UNWRAPPING_KEY_TYPE_INCONSISTENT,
    CKR.KEY_SIZE_RANGE: CKR.UNWRAPPING_KEY_SIZE_RANGE,
    CKR.ENCRYPTED_DATA_INVALID: CKR.WRAPPED_KEY_INVALID,
    CKR.ENCRYPTED_DATA_LEN_RANGE: CKR.WRAPPED_KEY_LEN_RANGE,
    CKR.DATA_LEN_RANGE: CKR.WRAPPED_KEY_LEN_RANGE,
}
_NUMBERS = {
    CKR.ATTRIBUTE_VALUE_INVALID: CKR.WRAPPED_KEY_INVALID,
    CKR.TEMPLATE_INCOMPLETE: CKR.WRAPPED_KEY_INVALID,
}


_LENGTH = {CKR.KEY_SIZE_RANGE: CKR.ATTRIBUTE_VALUE_INVALID}  # of CKA_VALUE_LEN (clause 5.14.4 lists the codes)


class Wrapping:
    """The value of a key in software, to be encrypted by a secret key or an RSA public key.

    A private key is wrapped as PKCS #8 DER (Current Mechanisms 3.0, clauses 2.1.4, 2.2.4, 2.3.5 and 2.4.5).

    `size` is the greatest length of the result in bytes.
    """

    def __init__(self, token: Token, by: Object, key: Object, given: Given) -> None:
        """Check both keys.

        Raises CKR_KEY_UNEXTRACTABLE and CKR_KEY_NOT_WRAPPABLE for a key that has to stay, which keys in the TPM always
        do, CKR_KEY_HANDLE_INVALID for one that is not as CKA_WRAP_TEMPLATE demands, CKR_WRAPPING_KEY_TYPE_INCONSISTENT
        and CKR_WRAPPING_KEY_SIZE_RANGE for the key that wraps, and what else `check_use` raises.
        """
        row = token.mechanism(given.type, CKF.WRAP)
        params = row.params(given)
        with answering(_WRAPPING):
            check_use(by, row, CKA.WRAP, CKO.PUBLIC_KEY, CKO.SECRET_KEY)
        _check_leaves(by, key)
        self._value = _value_of(key, row)
        if row.form in {ECB, CBC}:
            self._value += bytes(-len(self._value) % _block(row))  # clauses 2.9.4 and 2.9.5
        with answering(_WRAPPING):
            self._cipher = family(row.family).cipher(token, by, row, params, encrypt=True)
            self.size = self._cipher.bound(len(self._value))

    def wrap(self) -> bytes:
        """Return the wrapped key; CKR_KEY_SIZE_RANGE if the mechanism has no room for it."""
        with answering(_WRAPPING):
            return self._cipher.whole(self._value)


def _block(row: Mechanism) -> int:
    """Return the bytes of a block of the cipher that a mechanism is of."""
    return AES_BLOCK if CKK.AES in row.keys else DES_BLOCK


def _check_leaves(by: Object, key: Object) -> None:
    """Refuse a key that may not leave the token, or not in the hands of this one."""
    if key.object_class not in {CKO.PRIVATE_KEY, CKO.SECRET_KEY}:
        raise Error(CKR.KEY_NOT_WRAPPABLE, "only private and secret keys are wrapped")
    if not key.is_set(CKA.EXTRACTABLE):
        raise Error(CKR.KEY_UNEXTRACTABLE, "the key's CKA_EXTRACTABLE is false")
    if key.in_tpm:
        raise Error(CKR.KEY_NOT_WRAPPABLE, "the key is in the TPM, which does not let it out")
    if key.is_set(CKA.WRAP_WITH_TRUSTED) and not by.is_set(CKA.TRUSTED):
        raise Error(CKR.KEY_NOT_WRAPPABLE, "the key is wrapped by a key with CKA_TRUSTED only")
    wanted = attribute.unpack(by.attributes.get(CKA.WRAP_TEMPLATE, b""))
    if not wanted.items() <= key.attributes.items():
        raise Error(CKR.KEY_HANDLE_INVALID, "the key is not as the wrapping key's CKA_WRAP_TEMPLATE demands")


def _value_of(key: Object, row: Mechanism) -> bytes:
    """Return the bytes of a key that are encrypted."""
    if key.object_class == CKO.SECRET_KEY:
        return key.secret()
    if row.form in {ECB, CBC}:
        raise Error(CKR.KEY_NOT_WRAPPABLE, f"{row.name} wraps secret keys only: use one with padding")
    found = of_keys(key.key_type)
    if found is None:
        raise Error(CKR.KEY_NOT_WRAPPABLE, "the token has no private keys of this type")
    return found.pkcs8(key)


def unwrap_key(token: Token, by: Object, given: Given, wrapped: bytes, template: Template, session: int = 0) -> int:
    """Make a key of a wrapped one and give its identifier: by a secret key, or by an RSA private key in the TPM.

    A private key comes as PKCS #8 DER. Without CKA_EXTRACTABLE the new key is extractable. Every fault of the
    wrapped key is the same error, CKR_WRAPPED_KEY_INVALID, except its length: CKR_WRAPPED_KEY_LEN_RANGE.
    Raises the codes of the template, CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT and CKR_UNWRAPPING_KEY_SIZE_RANGE for the key
    that unwraps, and what else `check_use` raises.
    """
    row = token.mechanism(given.type, CKF.UNWRAP)
    params = row.params(given)
    with answering(_UNWRAPPING):
        check_use(by, row, CKA.UNWRAP, CKO.PRIVATE_KEY, CKO.SECRET_KEY)
    if not {CKA.CLASS, CKA.KEY_TYPE} <= template.keys():
        raise Error(CKR.TEMPLATE_INCOMPLETE, "the template lacks CKA_CLASS or CKA_KEY_TYPE")
    template = {CKA.EXTRACTABLE: attribute.TRUE, **template}
    unwrap = {CKO.SECRET_KEY: _secret, CKO.PRIVATE_KEY: _private}.get(to_ulong(template[CKA.CLASS]))
    if unwrap is None:
        raise Error(CKR.TEMPLATE_INCONSISTENT, "only private and secret keys are unwrapped")

    def value() -> bytes:
        with answering(_UNWRAPPING):
            return family(row.family).cipher(token, by, row, params, encrypt=False).whole(wrapped)

    return unwrap(token, row, template, value, session)


def _secret(token: Token, row: Mechanism, template: Template, value: Callable[[], bytes], session: int) -> int:
    key = SecretKey(template, attribute.GENERATE)
    _check_length(row, key)
    token.require_writer(key.attributes)
    fitting = _fit(row, key, value())
    return key.add(token, fitting, attribute.of_created_key(), session, was_secret=False)


def _private(token: Token, _row: Mechanism, template: Template, value: Callable[[], bytes], session: int) -> int:
    """Make a private key of PKCS #8 DER (Current Mechanisms 3.0, clauses 2.1.4, 2.2.4, 2.3.5 and 2.4.5)."""
    # Only then is it the wrapped key that a later refusal is about
    attributes = attribute.complete(template, CKO.PRIVATE_KEY, to_ulong(template[CKA.KEY_TYPE]), attribute.GENERATE)
    token.require_writer(attributes)
    pkcs8, found = value(), of_keys(to_ulong(template[CKA.KEY_TYPE]))
    numbers = found.private_numbers(pkcs8) if found is not None else {}
    with answering(_NUMBERS):
        if numbers.get(CKA.KEY_TYPE) != template[CKA.KEY_TYPE]:
            raise Error(CKR.WRAPPED_KEY_INVALID, "the wrapped key is of another type")
        return create.described_key({**template, **numbers}).add(token, session)


def _check_length(row: Mechanism, key: SecretKey) -> None:
    """Refuse a template without the length, where the mechanism does not tell it and AES keys have several."""
    if key.length is not None:
        with answering(_LENGTH):
            key.check_length(key.length)
    elif row.form == RAW and key.key_type == CKK.AES:
        raise Error(CKR.TEMPLATE_INCOMPLETE, "the template lacks CKA_VALUE_LEN")


def _fit(row: Mechanism, key: SecretKey, value: bytes) -> bytes:
    """Remove the zeros that a mechanism without padding has filled up with; a key of another length is refused.

    Other bytes stay: an attacker who cuts them off one by one finds the rest by trying.
    """
    length = len(value) if key.length is None else key.length
    more = len(value) - length
    if more > 0 and row.form in {ECB, CBC, RAW}:
        off, kept = (value[:more], value[more:]) if row.form == RAW else (value[length:], value[:length])
        if not any(off) and (row.form == RAW or more < _block(row)):
            value = kept
    try:
        key.check_length(len(value))
    except Error:
        length = -1
    if len(value) != length:
        raise Error(CKR.WRAPPED_KEY_INVALID, "the unwrapped bytes are not such a key")
    return value
