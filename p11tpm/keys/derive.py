"""Keys derived from keys (C_DeriveKey, clause 5.18.5)."""

from __future__ import annotations

from posix import urandom

from p11tpm import attribute
from p11tpm.attribute import FALSE, TRUE, to_ulong, ulong
from p11tpm.ck import CKA, CKF, CKK, CKM, CKO, CKR, name
from p11tpm.crypto import hashes, point
from p11tpm.error import Error
from p11tpm.host.imports import Late
from p11tpm.keys.secret_key import SecretKey
from p11tpm.mechanism import (
    APPEND,
    CBC,
    DH,
    ECB,
    ECDH,
    ENCRYPT_CBC,
    ENCRYPT_ECB,
    HASH,
    HKDF,
    JOIN_KEY,
    LONGEST_SECRET,
    PREPEND,
    XOR,
    curve_of,
)
from p11tpm.operation.use import check_use
from p11tpm.parameter import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from p11tpm.attribute import Template
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.crypto import domain
    from p11tpm.operation import block
    from p11tpm.parameter import Given, HkdfParams
else:
    domain = Late("p11tpm.crypto.domain")
    block = Late("p11tpm.operation.block")

# Forms whose result holds the base key as it is, and so has to be as protected (clauses 2.43.3 to 2.43.6)
_JOINED = {JOIN_KEY, APPEND, PREPEND, XOR}

# A part of a key that is shorter can be found by trying all of its values, and then the next part, and so on.
_SHORTEST_PART = 16  # bytes

_NOISE = 8  # bytes that an exponent is made longer by


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
        self._base = base
        self._bases, self._keys = [base], [base]
        self._salt_key: Object | None = None
        if row.form == JOIN_KEY:
            self._bases.append(self._other(find(self._params.handle)))
        elif row.form == HKDF and self._params.salt_key:
            self._salt_key = self._other(find(self._params.salt_key))

    def _other(self, key: Object) -> Object:
        check_use(key, self._row, CKA.DERIVE, CKO.SECRET_KEY)
        self._keys.append(key)
        return key

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
        return _FORMS[self._row.form](self, length)

    def _ecdh(self, length: int | None) -> bytes:
        params = self._params
        try:
            public = point.coordinates(curve_of(self._base.get(CKA.EC_PARAMS)), params.point)
        except ValueError:
            raise refused("the other side's public key is not an uncompressed point of the curve") from None
        shared = self._token.user_of(self._base).ecdh(self._base, public)
        if params.digest is None:
            _require(length, len(shared))
            return shared if length is None else shared[-length:]  # the leading bytes go (clause 2.3.17)
        return x963(shared, params.shared_data, params.digest, length)

    def _dh(self, length: int | None) -> bytes:
        self._token.tpm.spend(self._base)
        private, noise = (int.from_bytes(value, "big") for value in (self._base.secret(), urandom(_NOISE)))
        try:
            shared = domain.Domain(CKK.DH, self._base.attributes).shared(private, self._params.number, noise)
        except ValueError:
            raise refused("the other side's public value is not one over the key's prime") from None
        _require(length, len(shared))
        return shared if length is None else shared[-length:]  # the leading bytes go (clause 2.4.6)

    def _hash(self, length: int | None) -> bytes:
        return _cut(hashes.digest(self._row.digest or "", self._base.secret()), length)

    def _join(self, length: int | None) -> bytes:
        if self._row.form == JOIN_KEY:
            return self._joined(length, *((base.secret(), base) for base in self._bases))
        key, data = (self._base.secret(), self._base), (self._params.data, None)
        return self._joined(length, *((key, data) if self._row.form == APPEND else (data, key)))

    @staticmethod
    def _joined(length: int | None, *parts: tuple[bytes, Object | None]) -> bytes:
        """Join parts and cut them; each part that is a key is given with it."""
        value = _cut(b"".join(part for part, _ in parts), length)
        left = len(value)
        for part, key in parts:
            _require_part(key, len(part), left)
            left = max(0, left - len(part))
        return value

    def _xor(self, length: int | None) -> bytes:
        base, data = self._base.secret(), self._params.data
        value = _cut(bytes(a ^ b for a, b in zip(base, data, strict=False)), length)
        _require_part(self._base, len(base), len(value))
        return value

    def _encrypt(self, length: int | None) -> bytes:
        """Encrypt the parameter's data; too few for the key are a bad parameter (clause 2.15)."""
        cipher, data = block.block_cipher(self._token, self._base), self._params.data
        if not data or len(data) % cipher.block or len(data) < (length or 0):
            raise refused("the data are not whole blocks, or too few for the key")
        mode, iv = (ECB, b"") if self._row.form == ENCRYPT_ECB else (CBC, self._params.iv)
        return _cut(cipher.context(mode, iv).update(data), length)

    def _hkdf(self, length: int | None) -> bytes:
        params: HkdfParams = self._params
        salt = self._salt_key.secret() if self._salt_key else params.salt
        return hkdf(self._base.secret(), salt, params, length)


_FORMS: dict[str, Callable[[Derivation, int | None], bytes]] = {
    ECDH: Derivation._ecdh,  # noqa: SLF001 - the class's own table
    DH: Derivation._dh,  # noqa: SLF001
    HASH: Derivation._hash,  # noqa: SLF001
    JOIN_KEY: Derivation._join,  # noqa: SLF001
    APPEND: Derivation._join,  # noqa: SLF001
    PREPEND: Derivation._join,  # noqa: SLF001
    XOR: Derivation._xor,  # noqa: SLF001
    ENCRYPT_ECB: Derivation._encrypt,  # noqa: SLF001
    ENCRYPT_CBC: Derivation._encrypt,  # noqa: SLF001
    HKDF: Derivation._hkdf,  # noqa: SLF001
}


def x963(shared: bytes, info: bytes, digest: str, length: int | None) -> bytes:
    """Derive `length` bytes, or one digest, by the key derivation function of ANSI X9.63 (SEC 1, clause 3.6.1)."""
    size = hashes.new(digest).digest_size
    blocks = range(1, -(-(length or size) // size) + 1)
    made = b"".join(hashes.digest(digest, shared + count.to_bytes(4, "big") + info) for count in blocks)
    return made[: length or size]


def hkdf(key: bytes, salt: bytes | None, params: HkdfParams, length: int | None) -> bytes:
    """Derive `length` bytes, or one digest, by HKDF (RFC 5869); without the second step not more than a digest."""
    digest = params.digest
    size = hashes.new(digest).digest_size
    if params.extract:
        key = hashes.mac(digest, salt or bytes(size), key)
    if not params.expand:
        return _cut(key, length)
    _require(length, 255 * size)
    made = block = b""
    count = 0
    while len(made) < (length or size):
        count += 1
        block = hashes.mac(digest, key, block + params.info + bytes((count,)))
        made += block
    return made[: length or size]


def _require(length: int | None, most: int) -> None:
    if length is not None and length > most:
        raise Error(CKR.TEMPLATE_INCONSISTENT, f"the mechanism gives at most {most} bytes here")


def _cut(value: bytes, length: int | None) -> bytes:
    """Return the first bytes (clauses 2.43.3 to 2.43.11)."""
    _require(length, len(value))
    return value if length is None else value[:length]


def _require_part(key: Object | None, length: int, left: int) -> None:
    """Refuse to cut a key that the host may not read so short that the rest can be found by trying."""
    if key is not None and not key.readable and 0 < left < min(length, _SHORTEST_PART):
        raise Error(CKR.KEY_SIZE_RANGE, f"not less than {_SHORTEST_PART} bytes of a sensitive key can be in another")
