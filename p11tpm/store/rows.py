"""Rows of the store: a token, an object."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from typing import Any


class DamagedError(Exception):
    """A value that was read from a store, and that p11tpm never writes to one."""


class TokenRow:
    """A token: its names, its PINs' salt and its objects in the TPM; `public` and `private` are wrapped blobs.

    `label` has bytes that are not UTF-8 as surrogateescape has them. `uuid` and `salt` are 16 bytes, `srk_handle` is
    0 for a storage root key that is made anew each time, `tpm` is ``manufacturer|model|firmware``, `capabilities` are
    words such as ``rsa2048`` between spaces, `created` is a Unix time in seconds. `failed` is not a column: whether a
    PIN of the token was wrong and counts. `no_pin` is believed if the TPM does not count wrong values of the object
    that a PIN would open. `policy` is the text of the states of the machine in which the token opens, empty for any,
    `ticket` what the TPM gave for the last signature of a state, and the `recovery` object opens by a code.
    """

    __slots__ = (
        "capabilities",
        "created",
        "failed",
        "id",
        "label",
        "no_pin",
        "policy",
        "recovery_private",
        "recovery_public",
        "salt",
        "serial",
        "so_private",
        "so_public",
        "srk_handle",
        "srk_public",
        "ticket",
        "tpm",
        "user_pin_set",
        "user_private",
        "user_public",
        "uuid",
    )

    id: int
    uuid: bytes
    label: str
    serial: str
    salt: bytes
    no_pin: bool
    user_pin_set: bool
    srk_handle: int
    srk_public: bytes
    so_public: bytes
    so_private: bytes
    user_public: bytes
    user_private: bytes
    tpm: str
    capabilities: str
    created: int
    policy: str
    ticket: bytes
    recovery_public: bytes
    recovery_private: bytes
    failed: bool

    def __init__(self, **fields: Any) -> None:
        self.update({**_EMPTY, **fields})

    def update(self, fields: Mapping[str, Any]) -> None:
        """Set columns, in this row alone."""
        for name, value in fields.items():
            setattr(self, name, value)

    def values(self) -> list[Any]:
        """Return the values of `COLUMNS`, in their order."""
        return [_label_column(self.label) if name == "label" else getattr(self, name) for name in COLUMNS]


def _label_column(label: str) -> str | bytes:
    """Return a label as SQLite takes it: text, or bytes if it is not UTF-8."""
    raw = label.encode(errors="surrogateescape")
    return label if raw.decode(errors="replace") == label else raw


_EMPTY: dict[str, Any] = {
    "id": 0,
    **dict.fromkeys(("label", "serial", "tpm", "capabilities", "policy"), ""),
    **dict.fromkeys(("no_pin", "user_pin_set", "failed"), False),
    **dict.fromkeys(("srk_handle", "created"), 0),
    **dict.fromkeys(("uuid", "salt", "srk_public"), b""),
    **dict.fromkeys(("so_public", "so_private", "user_public", "user_private"), b""),
    **dict.fromkeys(("ticket", "recovery_public", "recovery_private"), b""),
}

_NO_DA = 1 << 10  # TPMA_OBJECT.noDA: TPM 2.0 Part 2, clause 8.3


def counts_guesses(public: bytes) -> bool:
    """Return whether the TPM counts wrong authorisation values of an object, from its TPMT_PUBLIC."""
    return not int.from_bytes(public[4:8], "big") & _NO_DA


COLUMNS = tuple(name for name in _EMPTY if name not in {"id", "failed"})

# SQLite takes any value in any column: these are the types of what p11tpm writes.
_INTEGER, _BYTES, _TEXT = frozenset({int}), frozenset({bytes}), frozenset({str})
_MAY_BE_BYTES: AbstractSet[type] = frozenset({bytes, type(None)})
_AS_STORED = {bool: _INTEGER, int: _INTEGER, bytes: _BYTES, str: _TEXT}
_TOKEN = [_TEXT | _BYTES if name == "label" else _AS_STORED[type(_EMPTY[name])] for name in COLUMNS]
_OBJECT = (_INTEGER, _BYTES, _MAY_BE_BYTES, _MAY_BE_BYTES, _MAY_BE_BYTES, _INTEGER)
_MOST = 0xFFFF  # bytes of what the TPM is given: a TPM2B begins with its size in 16 bits (Part 2, clause 10.4)
_LAST = 0xFFFFFFFF  # of handles, which have 32 bits (Part 2, clause 7.1), of flags and of times


def check_token(id_: Any, columns: Sequence[Any]) -> None:
    """Refuse columns of a token, in the order of `COLUMNS`, of which one cannot have such a value: DamagedError."""
    check_identifiers([id_])
    _check(columns, _TOKEN)


def check_object(columns: Sequence[Any], secret: Any, attributes: dict[Any, Any]) -> None:
    """Refuse an object's token, identifier, blobs, code and handle, its secret or attributes: see `check_token`."""
    _check(columns, _OBJECT)
    if type(secret) not in _MAY_BE_BYTES:
        raise DamagedError
    for type_, value in attributes.items():
        if type(type_) is not int or type_ < 0 or type(value) is not bytes:
            raise DamagedError


def check_identifiers(ids: list[Any]) -> None:
    """Refuse what SQLite never gives to a row: see `check_token`. Others have identifiers below 0."""
    if not all(type(id_) is int and id_ > 0 for id_ in ids):
        raise DamagedError


def check_counts(columns: Sequence[Any]) -> None:
    """Refuse a row in which something is not a number: see `check_token`."""
    _check(columns, [_INTEGER] * len(columns))


def _check(columns: Sequence[Any], types: Sequence[AbstractSet[type]]) -> None:
    for value, allowed in zip(columns, types, strict=True):
        if type(value) not in allowed:
            raise DamagedError
        if not 0 <= value <= _LAST if type(value) is int else value is not None and len(value) > _MOST:
            raise DamagedError


class Record:
    """An object: its attributes by type, its blobs if the TPM has its private part, and what authenticates it.

    `uuid` is 16 bytes and does not change; attribute values are in PKCS#11's encoding, a CK_ULONG is 8 bytes,
    little-endian. `id` is 0 until the object is in a store. `resident` is the persistent handle of a key that stays in
    the TPM, else 0; the mac does not cover it, since the TPM lets nothing be used for the key but the key. `secret` is
    the value of a secret key, or the check value of one that is in the TPM: encrypted in a store, as it is for a
    session object. `auth` is the authorisation value of a session object's key in the TPM that was made without a
    login; no store has it.
    """

    __slots__ = ("attributes", "auth", "id", "mac", "resident", "secret", "token", "tpm_private", "tpm_public", "uuid")

    def __init__(
        self,
        token: int,
        uuid: bytes,
        attributes: dict[int, bytes],
        tpm_public: bytes | None = None,
        tpm_private: bytes | None = None,
        mac: bytes | None = None,
        id: int = 0,  # noqa: A002 - the row's own name for it
        resident: int = 0,
        *,
        secret: bytes | None = None,
        auth: bytes | None = None,
    ) -> None:
        self.id = id
        self.token = token
        self.uuid = uuid
        self.attributes = attributes
        self.tpm_public = tpm_public
        self.tpm_private = tpm_private
        self.mac = mac
        self.resident = resident
        self.secret = secret
        self.auth = auth
