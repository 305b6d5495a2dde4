"""Secret keys of any bytes: how they are made, and what is derived from them (clauses 2.5, 2.43 and 2.58)."""

from __future__ import annotations

from p11tpm.algorithm import HASHES
from p11tpm.ck import CKR
from p11tpm.crypto import hashes
from p11tpm.error import Error
from p11tpm.family.family import Family
from p11tpm.family.length import first_bytes, require
from p11tpm.family.secret_key import generate
from p11tpm.mechanism import APPEND, HASH, HKDF, JOIN_KEY, PREPEND, XOR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism
    from p11tpm.parameter import HkdfParams

# A part of a key that is shorter can be found by trying all of its values, and then the next part, and so on.
_SHORTEST_PART = 16  # bytes


class SecretKeys(Family):
    """Generic secrets, and the keys of HKDF."""

    generate = staticmethod(generate)

    def derive(self, _token: Token, keys: list[Object], row: Mechanism, params: Any, length: int | None) -> bytes:
        """Derive from the value of a key."""
        return _FORMS[row.form](keys, row, params, length)


def _hash(keys: list[Object], row: Mechanism, _params: Any, length: int | None) -> bytes:
    return first_bytes(hashes.digest(row.digest or "", keys[0].secret()), length)


def _join_keys(keys: list[Object], _row: Mechanism, _params: Any, length: int | None) -> bytes:
    return _joined(length, *((key.secret(), key) for key in keys))


def _append(keys: list[Object], _row: Mechanism, params: Any, length: int | None) -> bytes:
    return _joined(length, (keys[0].secret(), keys[0]), (params.data, None))


def _prepend(keys: list[Object], _row: Mechanism, params: Any, length: int | None) -> bytes:
    return _joined(length, (params.data, None), (keys[0].secret(), keys[0]))


def _joined(length: int | None, *parts: tuple[bytes, Object | None]) -> bytes:
    """Join parts and cut them; each part that is a key is given with it."""
    value = first_bytes(b"".join(part for part, _ in parts), length)
    left = len(value)
    for part, key in parts:
        _require_part(key, len(part), left)
        left = max(0, left - len(part))
    return value


def _xor(keys: list[Object], _row: Mechanism, params: Any, length: int | None) -> bytes:
    base = keys[0].secret()
    value = first_bytes(bytes(a ^ b for a, b in zip(base, params.data, strict=False)), length)
    _require_part(keys[0], len(base), len(value))
    return value


def _require_part(key: Object | None, length: int, left: int) -> None:
    """Refuse to cut a key that the host may not read so short that the rest can be found by trying."""
    if key is not None and not key.readable and 0 < left < min(length, _SHORTEST_PART):
        raise Error(CKR.KEY_SIZE_RANGE, f"not less than {_SHORTEST_PART} bytes of a sensitive key can be in another")


def _hkdf(keys: list[Object], _row: Mechanism, params: HkdfParams, length: int | None) -> bytes:
    base, *salt_keys = (key.secret() for key in keys)
    return hkdf(base, salt_keys[0] if salt_keys else params.salt, params, length)


def hkdf(key: bytes, salt: bytes | None, params: HkdfParams, length: int | None) -> bytes:
    """Derive `length` bytes, or one digest, by HKDF (RFC 5869); without the second step not more than a digest."""
    digest = params.digest
    size = HASHES[digest].size
    if params.extract:
        key = hashes.mac(digest, salt or bytes(size), key)
    if not params.expand:
        return first_bytes(key, length)
    require(length, 255 * size)
    made = block = b""
    count = 0
    while len(made) < (length or size):
        count += 1
        block = hashes.mac(digest, key, block + params.info + bytes((count,)))
        made += block
    return made[: length or size]


_FORMS = {HASH: _hash, JOIN_KEY: _join_keys, APPEND: _append, PREPEND: _prepend, XOR: _xor, HKDF: _hkdf}

FAMILY = SecretKeys()
