"""Attributes of objects: each one declared once, with its encoding, its default and its rules.

Templates, defaults, sensitive values, C_GetAttributeValue, C_SetAttributeValue and C_CopyObject read this table and
nothing else. Source: PKCS#11 Base Specification 3.0, clause 4 (objects), tables 10 to 41.

A value is bytes in PKCS#11's own encoding; a CK_ULONG is 8 bytes, little-endian, on every machine.
"""

from __future__ import annotations

from p11tpm.algorithm import constants
from p11tpm.ck import CKA, CKK, CKO, CKR, UNAVAILABLE, name
from p11tpm.error import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

Template = dict[int, bytes]

TRUE = b"\x01"
FALSE = b"\x00"


def ulong(number: int) -> bytes:
    """Encode a CK_ULONG."""
    return number.to_bytes(8, "little")


def to_ulong(value: bytes) -> int:
    """Decode a CK_ULONG."""
    return int.from_bytes(value, "little")


def unsigned(number: int) -> bytes:
    """Encode a Big integer (clause 3.5)."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def pack(template: Template) -> bytes:
    """Encode a template that is the value of an attribute: type, length and value of each entry, in order of type."""
    return b"".join(ulong(type_) + ulong(len(value)) + value for type_, value in sorted(template.items()))


def unpack(value: bytes) -> Template:
    """Decode what `pack` encoded."""
    template, at = {}, 0
    while at < len(value):
        end = at + 16 + to_ulong(value[at + 8 : at + 16])
        template[to_ulong(value[at : at + 8])] = value[at + 16 : end]
        at = end
    return template


def _is_bool(value: bytes) -> bool:
    return value in {TRUE, FALSE}


def _is_ulong(value: bytes) -> bool:
    return len(value) == 8


def _is_bytes(_value: bytes) -> bool:
    return True


def _is_date(value: bytes) -> bool:
    """CK_DATE: empty, or YYYYMMDD, a day that there is (clause 3.4)."""
    if not value:
        return True
    if len(value) != 8 or not value.isdigit():
        return False
    year, month, day = int(value[:4]), int(value[4:6]), int(value[6:])
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 1 <= month <= 12 and 1 <= day <= _DAYS[month - 1] + leap


def _is_text(value: bytes) -> bool:
    return value.isascii() and 0 < len(value) <= _LONGEST_TEXT


def _is_ulongs(value: bytes) -> bool:
    return len(value) % 8 == 0


def _is_below_4(value: bytes) -> bool:
    return _is_ulong(value) and to_ulong(value) < 4


_LONGEST_TEXT = 4096  # bytes
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
BOOL, ULONG, BYTES, DATE, ULONGS = _is_bool, _is_ulong, _is_bytes, _is_date, _is_ulongs
TEMPLATES = {CKA.WRAP_TEMPLATE, CKA.UNWRAP_TEMPLATE, CKA.DERIVE_TEMPLATE}  # attributes that are templates themselves

# How an object comes to be.
CREATE = "create"
GENERATE = "generate"

# What a template may say of an attribute then.
OPTIONAL = "optional"
REQUIRED = "required"
NEVER = "never"

# How an attribute may change later.
FIXED = "unchangeable"
FREELY = "modifiable"
TO_TRUE = "may become true only"
TO_FALSE = "may become false only"
BY_SO = "for the SO to set"

DATA, CERTIFICATE, PUBLIC, PRIVATE = CKO.DATA, CKO.CERTIFICATE, CKO.PUBLIC_KEY, CKO.PRIVATE_KEY
SECRET, DOMAIN = CKO.SECRET_KEY, CKO.DOMAIN_PARAMETERS
PAIR = (PUBLIC, PRIVATE)
KEYS = (*PAIR, SECRET)
ALL = (DATA, CERTIFICATE, *KEYS, DOMAIN)
_TYPED = (*KEYS, DOMAIN)  # the classes that have a CKA_KEY_TYPE


DOMAINS = {  # key type: the attributes that are its domain parameters, in the order of X.509's (RFC 3279, PKCS #3)
    CKK.DSA: (CKA.PRIME, CKA.SUBPRIME, CKA.BASE),
    CKK.DH: (CKA.PRIME, CKA.BASE),
}
_SIGNING = (CKK.EC, CKK.EC_EDWARDS, *DOMAINS)  # key types that neither encrypt nor recover
_OF_SOME_LENGTH = (  # the other secret keys have one length only
    *(CKK.GENERIC_SECRET, CKK.AES, CKK.HKDF),
    *constants(CKK, "*_HMAC").values(),
)


class Attribute:
    """What the standard says of one attribute type in some object classes."""

    __slots__ = ("change", "create", "default", "generate", "key", "of", "only", "sensitive", "type", "valid")

    def __init__(
        self,
        type_: int,
        valid: object,
        of: tuple[int, ...] | int,
        *,
        key: int | None = None,
        default: bytes | None = None,
        create: str = OPTIONAL,
        generate: str = OPTIONAL,
        change: str = FIXED,
        sensitive: bool = False,
        only: bytes | None = None,
    ) -> None:
        self.type = type_
        self.valid = valid
        self.of = of if isinstance(of, tuple) else (of,)
        self.key = key
        self.default = default
        self.create = create
        self.generate = generate
        self.change = change
        self.sensitive = sensitive
        self.only = only

    def check(self, value: bytes) -> None:
        """Refuse a value of the wrong form, or one that this token cannot honour."""
        if not self.valid(value) or self.only not in {None, value}:  # type: ignore[operator]
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, f"{name(CKA, self.type)} cannot have this value")


ATTRIBUTES = (
    # Storage objects (clause 4.4)
    Attribute(CKA.CLASS, ULONG, ALL, create=REQUIRED),
    Attribute(CKA.TOKEN, BOOL, ALL, default=FALSE),
    Attribute(CKA.PRIVATE, BOOL, (DATA, PRIVATE, SECRET), default=TRUE),
    Attribute(CKA.PRIVATE, BOOL, (CERTIFICATE, PUBLIC, DOMAIN), default=FALSE),
    Attribute(CKA.MODIFIABLE, BOOL, ALL, default=TRUE),
    Attribute(CKA.COPYABLE, BOOL, ALL, default=TRUE, change=TO_FALSE),
    Attribute(CKA.DESTROYABLE, BOOL, ALL, default=TRUE),
    Attribute(CKA.LABEL, BYTES, ALL, default=b"", change=FREELY),
    Attribute(CKA.UNIQUE_ID, BYTES, ALL, create=NEVER, generate=NEVER),
    # Data objects (clause 4.5)
    Attribute(CKA.APPLICATION, BYTES, DATA, default=b"", change=FREELY),
    Attribute(CKA.OBJECT_ID, BYTES, DATA, default=b"", change=FREELY),
    Attribute(CKA.VALUE, BYTES, DATA, default=b"", change=FREELY),
    # X.509 certificates (clauses 4.6.2 and 4.6.3)
    Attribute(CKA.CERTIFICATE_TYPE, ULONG, CERTIFICATE, create=REQUIRED, only=ulong(0)),
    Attribute(CKA.TRUSTED, BOOL, (CERTIFICATE, PUBLIC, SECRET), default=FALSE, change=BY_SO),
    Attribute(CKA.CERTIFICATE_CATEGORY, _is_below_4, CERTIFICATE, default=ulong(0)),
    Attribute(CKA.CHECK_VALUE, BYTES, CERTIFICATE),
    Attribute(CKA.START_DATE, DATE, CERTIFICATE, default=b""),
    Attribute(CKA.END_DATE, DATE, CERTIFICATE, default=b""),
    Attribute(CKA.PUBLIC_KEY_INFO, BYTES, CERTIFICATE),
    Attribute(CKA.SUBJECT, BYTES, CERTIFICATE, create=REQUIRED),
    Attribute(CKA.ID, BYTES, CERTIFICATE, default=b"", change=FREELY),
    Attribute(CKA.ISSUER, BYTES, CERTIFICATE, default=b"", change=FREELY),
    Attribute(CKA.SERIAL_NUMBER, BYTES, CERTIFICATE, default=b"", change=FREELY),
    Attribute(CKA.VALUE, BYTES, CERTIFICATE, default=b""),
    Attribute(CKA.URL, BYTES, CERTIFICATE, default=b""),
    Attribute(CKA.HASH_OF_SUBJECT_PUBLIC_KEY, BYTES, CERTIFICATE, default=b""),
    Attribute(CKA.HASH_OF_ISSUER_PUBLIC_KEY, BYTES, CERTIFICATE, default=b""),
    Attribute(CKA.JAVA_MIDP_SECURITY_DOMAIN, _is_below_4, CERTIFICATE, default=ulong(0)),
    Attribute(CKA.NAME_HASH_ALGORITHM, ULONG, CERTIFICATE),
    # Keys (clause 4.7)
    Attribute(CKA.KEY_TYPE, ULONG, _TYPED, create=REQUIRED),
    Attribute(CKA.ID, BYTES, KEYS, default=b"", change=FREELY),
    Attribute(CKA.START_DATE, DATE, KEYS, default=b"", change=FREELY),
    Attribute(CKA.END_DATE, DATE, KEYS, default=b"", change=FREELY),
    Attribute(CKA.DERIVE, BOOL, KEYS, default=FALSE, change=FREELY),
    Attribute(CKA.LOCAL, BOOL, (*KEYS, DOMAIN), create=NEVER, generate=NEVER),
    Attribute(CKA.KEY_GEN_MECHANISM, ULONG, KEYS, create=NEVER, generate=NEVER),
    Attribute(CKA.ALLOWED_MECHANISMS, ULONGS, KEYS),
    Attribute(CKA.SUBJECT, BYTES, PAIR, default=b"", change=FREELY),
    Attribute(CKA.WRAP_TEMPLATE, BYTES, (PUBLIC, SECRET)),
    Attribute(CKA.UNWRAP_TEMPLATE, BYTES, (PRIVATE, SECRET)),
    Attribute(CKA.DERIVE_TEMPLATE, BYTES, (PRIVATE, SECRET)),
    Attribute(CKA.PUBLIC_KEY_INFO, BYTES, PUBLIC, generate=NEVER),
    Attribute(CKA.PUBLIC_KEY_INFO, BYTES, PRIVATE, create=NEVER, generate=NEVER),
    # Public keys (clause 4.8)
    Attribute(CKA.ENCRYPT, BOOL, PUBLIC, key=CKK.RSA, default=TRUE, change=FREELY),
    Attribute(CKA.VERIFY, BOOL, PUBLIC, default=TRUE, change=FREELY),
    Attribute(CKA.VERIFY_RECOVER, BOOL, PUBLIC, key=CKK.RSA, default=TRUE, change=FREELY),
    Attribute(CKA.WRAP, BOOL, PUBLIC, key=CKK.RSA, default=TRUE, change=FREELY),
    *(
        Attribute(usage, BOOL, PUBLIC, key=key, default=FALSE, change=FREELY)
        for usage in (CKA.ENCRYPT, CKA.VERIFY_RECOVER, CKA.WRAP)
        for key in _SIGNING
    ),
    # Private keys (clause 4.9): what their attributes allow, a key in the TPM refuses all the same
    Attribute(CKA.SENSITIVE, BOOL, PRIVATE, default=TRUE, change=TO_TRUE),
    Attribute(CKA.EXTRACTABLE, BOOL, PRIVATE, default=FALSE, change=TO_FALSE),
    Attribute(CKA.ALWAYS_SENSITIVE, BOOL, (PRIVATE, SECRET), create=NEVER, generate=NEVER),
    Attribute(CKA.NEVER_EXTRACTABLE, BOOL, (PRIVATE, SECRET), create=NEVER, generate=NEVER),
    Attribute(CKA.DECRYPT, BOOL, PRIVATE, key=CKK.RSA, default=TRUE, change=FREELY),
    Attribute(CKA.SIGN, BOOL, PRIVATE, default=TRUE, change=FREELY),
    Attribute(CKA.SIGN_RECOVER, BOOL, PRIVATE, key=CKK.RSA, default=TRUE, change=FREELY),
    Attribute(CKA.UNWRAP, BOOL, PRIVATE, key=CKK.RSA, default=TRUE, change=FREELY),
    *(
        Attribute(usage, BOOL, PRIVATE, key=key, default=FALSE, change=FREELY)
        for usage in (CKA.DECRYPT, CKA.SIGN_RECOVER, CKA.UNWRAP)
        for key in _SIGNING
    ),
    Attribute(CKA.WRAP_WITH_TRUSTED, BOOL, (PRIVATE, SECRET), default=FALSE, change=TO_TRUE),
    Attribute(CKA.ALWAYS_AUTHENTICATE, BOOL, PRIVATE, default=FALSE),
    # What the TPM asks for at each use of the key: the text of p11tpm/tpm/state.py
    *(Attribute(CKA.P11TPM_POLICY, _is_text, PRIVATE, key=key, create=NEVER) for key in (CKK.RSA, CKK.EC)),
    # Secret keys (clause 4.10)
    Attribute(CKA.SENSITIVE, BOOL, SECRET, default=FALSE, change=TO_TRUE),
    Attribute(CKA.EXTRACTABLE, BOOL, SECRET, default=FALSE, change=TO_FALSE),
    *(
        Attribute(usage, BOOL, SECRET, default=TRUE, change=FREELY)
        for usage in (CKA.ENCRYPT, CKA.DECRYPT, CKA.SIGN, CKA.VERIFY, CKA.WRAP, CKA.UNWRAP)
    ),
    Attribute(CKA.CHECK_VALUE, BYTES, SECRET),
    Attribute(CKA.VALUE, BYTES, SECRET, create=REQUIRED, generate=NEVER, sensitive=True),
    *(Attribute(CKA.VALUE_LEN, ULONG, SECRET, key=key, create=NEVER) for key in _OF_SOME_LENGTH),
    # RSA keys (Current Mechanisms 3.0, clause 2.1)
    Attribute(CKA.MODULUS, BYTES, PUBLIC, key=CKK.RSA, create=REQUIRED, generate=NEVER),
    Attribute(CKA.MODULUS, BYTES, PRIVATE, key=CKK.RSA, generate=NEVER),
    Attribute(CKA.MODULUS_BITS, ULONG, PUBLIC, key=CKK.RSA, create=NEVER, generate=REQUIRED),
    Attribute(CKA.PUBLIC_EXPONENT, BYTES, PUBLIC, key=CKK.RSA, create=REQUIRED, default=b"\x01\x00\x01"),
    Attribute(CKA.PUBLIC_EXPONENT, BYTES, PRIVATE, key=CKK.RSA, default=b"\x01\x00\x01", generate=NEVER),
    *(
        Attribute(part, BYTES, PRIVATE, key=CKK.RSA, generate=NEVER, sensitive=True)
        for part in (
            CKA.PRIVATE_EXPONENT,
            CKA.PRIME_1,
            CKA.PRIME_2,
            CKA.EXPONENT_1,
            CKA.EXPONENT_2,
            CKA.COEFFICIENT,
        )
    ),
    # EC keys (Current Mechanisms 3.0, clause 2.3)
    *(
        row
        for key in (CKK.EC, CKK.EC_EDWARDS)
        for row in (
            Attribute(CKA.EC_PARAMS, BYTES, PUBLIC, key=key, create=REQUIRED, generate=REQUIRED),
            Attribute(CKA.EC_PARAMS, BYTES, PRIVATE, key=key, generate=NEVER),
            Attribute(CKA.EC_POINT, BYTES, PUBLIC, key=key, create=REQUIRED, generate=NEVER),
            Attribute(CKA.VALUE, BYTES, PRIVATE, key=key, generate=NEVER, sensitive=True),
        )
    ),
    # Keys over a prime and their domain parameters (Current Mechanisms 3.0, clauses 2.2 and 2.4)
    *(
        row
        for key, numbers in DOMAINS.items()
        for row in (
            *(
                Attribute(type_, BYTES, of, key=key, create=REQUIRED, generate=how)
                for type_ in numbers
                for of, how in ((PUBLIC, REQUIRED), (PRIVATE, NEVER), (DOMAIN, NEVER))
            ),
            Attribute(CKA.PRIME_BITS, ULONG, DOMAIN, key=key, create=NEVER, generate=REQUIRED),
            Attribute(CKA.VALUE, BYTES, PUBLIC, key=key, create=REQUIRED, generate=NEVER),
            Attribute(CKA.VALUE, BYTES, PRIVATE, key=key, create=REQUIRED, generate=NEVER, sensitive=True),
        )
    ),
    Attribute(CKA.VALUE_BITS, ULONG, PRIVATE, key=CKK.DH, create=NEVER),
)

_FOR_A_COPY = {CKA.TOKEN, CKA.PRIVATE, CKA.MODIFIABLE, CKA.DESTROYABLE}  # a copy may have them otherwise

_ROWS = {(of, row.key, row.type): row for row in ATTRIBUTES for of in row.of}
_NEEDED = {  # by the value of CKA_CLASS
    ulong(of): {CKA.TOKEN, CKA.PRIVATE, CKA.MODIFIABLE, CKA.DESTROYABLE, CKA.KEY_TYPE if of in _TYPED else CKA.VALUE}
    for of in ALL
}
PAIR_TYPES = (CKK.RSA, CKK.EC)  # pairs of which the TPM has the private half


def row_of(object_class: int, key_type: int | None, type_: int) -> Attribute | None:
    """Find the declaration of an attribute type in an object class; None if it does not belong there."""
    return _ROWS.get((object_class, None, type_)) or _ROWS.get((object_class, key_type, type_))


def complete(template: Template, object_class: int, key_type: int | None, how: str) -> Template:
    """Check a template for a new object and add what it leaves to the token.

    Raises CKR_ATTRIBUTE_TYPE_INVALID, CKR_ATTRIBUTE_READ_ONLY, CKR_ATTRIBUTE_VALUE_INVALID or CKR_TEMPLATE_INCOMPLETE
    (clause 4.1.1), or CKR_TEMPLATE_INCONSISTENT when class or key type are not those of the object.
    """
    known = {CKA.CLASS: ulong(object_class)}
    if key_type is not None:
        known[CKA.KEY_TYPE] = ulong(key_type)
    for type_, value in template.items():
        row = row_of(object_class, key_type, type_)
        if row is None:
            raise Error(CKR.ATTRIBUTE_TYPE_INVALID, f"{name(CKA, type_)} does not belong to such an object")
        if getattr(row, how) == NEVER:
            raise Error(CKR.ATTRIBUTE_READ_ONLY, f"{name(CKA, type_)} is set by the token")
        row.check(value)
        if known.get(type_, value) != value:
            raise Error(CKR.TEMPLATE_INCONSISTENT, f"{name(CKA, type_)} contradicts the call")
    attributes = {**template, **known}
    for (of, key, type_), row in _ROWS.items():
        if of != object_class or key not in {None, key_type} or type_ in attributes:
            continue
        if getattr(row, how) == REQUIRED:
            raise Error(CKR.TEMPLATE_INCOMPLETE, f"the template lacks {name(CKA, type_)}")
        if row.default is not None:
            attributes[type_] = row.default
    _check_together(attributes, object_class)
    return attributes


def _check_together(attributes: Template, object_class: int) -> None:
    """Check what one attribute demands of another (clauses 4.6.3 and 4.9)."""
    if attributes.get(CKA.ALWAYS_AUTHENTICATE) == TRUE and attributes[CKA.PRIVATE] != TRUE:
        raise Error(CKR.TEMPLATE_INCONSISTENT, "CKA_ALWAYS_AUTHENTICATE is for private objects")
    if object_class == CERTIFICATE and not attributes[CKA.VALUE]:
        elsewhere = (CKA.URL, CKA.HASH_OF_SUBJECT_PUBLIC_KEY, CKA.HASH_OF_ISSUER_PUBLIC_KEY)
        if not all(attributes[type_] for type_ in elsewhere):
            raise Error(CKR.TEMPLATE_INCOMPLETE, "a certificate needs CKA_VALUE, or a URL and two hashes")


def with_template(template: Template, of_key: Template, type_: int) -> Template:
    """Return a template for a new key with what CKA_UNWRAP_TEMPLATE or CKA_DERIVE_TEMPLATE (`type_`) of a key adds.

    CKR_TEMPLATE_INCONSISTENT if the two contradict each other (clauses 4.9 and 4.10).
    """
    added = unpack(of_key.get(type_, b""))
    for other, value in added.items():
        if template.get(other, value) != value:
            raise Error(CKR.TEMPLATE_INCONSISTENT, f"{name(CKA, other)} contradicts the key's {name(CKA, type_)}")
    return {**template, **added}


def check_known(template: Template, known: Template) -> None:
    """Refuse values other than those that the token finds itself: CKR_ATTRIBUTE_VALUE_INVALID; empty ones are none."""
    for type_, value in known.items():
        if template.get(type_) not in {None, b"", value}:
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, f"{name(CKA, type_)} does not belong to the object's value")


def is_whole(attributes: Template) -> bool:
    """Return whether attributes can be those of an object: all that are needed are there, and are valid."""
    needed = _NEEDED.get(attributes.get(CKA.CLASS, b""))
    if needed is None or not attributes.keys() >= needed or not _is_ulong(attributes.get(CKA.KEY_TYPE, ulong(0))):
        return False
    object_class, key_type = kind(attributes)
    rows = ((row_of(object_class, key_type, type_), value) for type_, value in attributes.items())
    return all(row is None or row.valid(value) for row, value in rows)  # type: ignore[operator]


def check_change(attributes: Template, changes: Template, *, by_so: bool = False) -> None:
    """Check what C_SetAttributeValue asks of an object with these attributes (clause 5.7.7).

    Raises CKR_ATTRIBUTE_TYPE_INVALID, CKR_ATTRIBUTE_READ_ONLY, CKR_ATTRIBUTE_VALUE_INVALID, or CKR_ACTION_PROHIBITED
    for an object that is not modifiable.
    """
    if attributes[CKA.MODIFIABLE] == FALSE:
        raise Error(CKR.ACTION_PROHIBITED, "the object is not modifiable")
    _check_each(attributes, changes, {CKA.TRUSTED} if by_so else frozenset())


def check_copy(attributes: Template, changes: Template) -> None:
    """Check what C_CopyObject asks of a copy of an object with these attributes (clauses 4.4 and 5.7.2).

    Raises CKR_ACTION_PROHIBITED for an object that is not copyable, CKR_TEMPLATE_INCONSISTENT for a private object
    whose copy would not be private, and the codes of `check_change`.
    """
    if attributes.get(CKA.COPYABLE) != TRUE:
        raise Error(CKR.ACTION_PROHIBITED, "the object is not copyable")
    if attributes[CKA.PRIVATE] == TRUE and changes.get(CKA.PRIVATE) == FALSE:
        raise Error(CKR.TEMPLATE_INCONSISTENT, "a private object has private copies only")
    kept = {type_ for type_, value in changes.items() if attributes.get(type_) == value}
    _check_each(attributes, changes, kept | _FOR_A_COPY)


def _check_each(attributes: Template, changes: Template, free: AbstractSet[int] = frozenset()) -> None:
    """Check changes one by one, those of `free` types for their values only."""
    object_class, key_type = kind(attributes)
    for type_, value in changes.items():
        row = row_of(object_class, key_type, type_)
        if row is None:
            raise Error(CKR.ATTRIBUTE_TYPE_INVALID, f"{name(CKA, type_)} does not belong to such an object")
        if not row.valid(value):  # type: ignore[operator]
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, f"{name(CKA, type_)} cannot have this value")
        one_way = {TO_TRUE: TRUE, TO_FALSE: FALSE}.get(row.change)
        fixed = row.change in {FIXED, BY_SO} and type_ not in free
        if fixed or (one_way not in {None, value} and attributes.get(type_) != value):
            raise Error(CKR.ATTRIBUTE_READ_ONLY, f"{name(CKA, type_)} is {row.change}")
        row.check(value)


def kind(attributes: Template) -> tuple[int, int | None]:
    """Return object class and key type (None for objects that are not keys)."""
    key_type = attributes.get(CKA.KEY_TYPE)
    return to_ulong(attributes[CKA.CLASS]), None if key_type is None else to_ulong(key_type)


def of_generated_key(mechanism: int) -> Template:
    """Return what the token says of a key that it made itself."""
    return {CKA.LOCAL: TRUE, CKA.KEY_GEN_MECHANISM: ulong(mechanism)}


def protection(attributes: Template, *, was_sensitive: bool, never_left: bool) -> Template:
    """Return what the token says of how a new private or secret key was kept until now (clauses 4.9 and 4.10).

    `was_sensitive`, `never_left`: whether its value was sensitive, and only in the token, before it became this key.
    """
    return {
        CKA.ALWAYS_SENSITIVE: attributes[CKA.SENSITIVE] if was_sensitive else FALSE,
        CKA.NEVER_EXTRACTABLE: TRUE if never_left and attributes[CKA.EXTRACTABLE] != TRUE else FALSE,
    }


def of_created_key() -> Template:
    """Return what the token says of a key that came from outside."""
    return {CKA.LOCAL: FALSE, CKA.KEY_GEN_MECHANISM: ulong(UNAVAILABLE)}


def of_created_private_key() -> Template:
    """Return what the token says of a private key that came from outside."""
    return {**of_created_key(), CKA.ALWAYS_SENSITIVE: FALSE, CKA.NEVER_EXTRACTABLE: FALSE}
