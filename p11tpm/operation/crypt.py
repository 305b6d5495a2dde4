"""Encryption and decryption (clauses 5.8 and 5.10)."""

from __future__ import annotations

from p11tpm.ck import CKA, CKF, CKO, CKR
from p11tpm.error import Error
from p11tpm.family.family import family
from p11tpm.operation.use import check_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.crypto.cipher import Cipher
    from p11tpm.given import Given


def encrypting(token: Token, key: Object, given: Given) -> Crypt:
    """Begin an encryption.

    Raises CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID, CKR_KEY_TYPE_INCONSISTENT, CKR_KEY_SIZE_RANGE,
    CKR_KEY_FUNCTION_NOT_PERMITTED.
    """
    row = token.mechanism(given.type, CKF.ENCRYPT)
    params = row.params(given)
    check_use(key, row, CKA.ENCRYPT, CKO.SECRET_KEY, CKO.PUBLIC_KEY)
    return Crypt(lambda: family(row.family).cipher(token, key, row, params, encrypt=True))


def decrypting(token: Token, key: Object, given: Given) -> Crypt:
    """Begin a decryption; the errors are those of an encryption."""
    row = token.mechanism(given.type, CKF.DECRYPT)
    params = row.params(given)
    check_use(key, row, CKA.DECRYPT, CKO.SECRET_KEY, CKO.PRIVATE_KEY)
    return Crypt(lambda: family(row.family).cipher(token, key, row, params, encrypt=False))


class Crypt:
    """An encryption or a decryption in the making.

    A result stays until the host has it: nothing is done twice because its buffer was too small (clause 5.2).
    """

    def __init__(self, make: Callable[[], Cipher]) -> None:
        self._make = make
        self._cipher = make()
        self._in_parts = False
        self._data: bytes | None = None  # bytes that were processed in one part
        self._result: bytes | None = None

    def bound(self, length: int) -> int:
        """Return how long the result is at most for data of this length in one part."""
        return self._cipher.bound(length) if self._result is None else len(self._result)

    def whole(self, data: bytes) -> bytes:
        """Process data in one part; CKR_OPERATION_NOT_INITIALIZED after the first of several."""
        if self._in_parts:
            raise Error(CKR.OPERATION_NOT_INITIALIZED, "an operation of several parts ends with its ...Final function")
        if self._result is None or data != self._data:
            if self._result is not None:
                self._cipher = self._make()  # the host gave up those data and begins anew
            self._result, self._data = self._cipher.whole(data), data
        return self._result

    def step(self, length: int) -> int:
        """Return how many bytes come of a part of this length."""
        if self._result is not None:
            raise _unfetched()
        return self._cipher.step(length)

    def update(self, part: bytes) -> bytes:
        """Process the next part."""
        self._in_parts = True
        return self._cipher.update(part)

    @property
    def rest(self) -> int:
        """How many bytes `finish` gives at most."""
        if self._result is None:
            return self._cipher.rest
        if not self._in_parts:
            raise _unfetched()
        return len(self._result)

    def finish(self) -> bytes:
        """Return the rest when all parts were processed."""
        self._in_parts = True
        if self._result is None:
            self._result = self._cipher.finish()
        return self._result


def _unfetched() -> Error:
    return Error(CKR.OPERATION_NOT_INITIALIZED, "the operation has ended, but for its result, which was not fetched")
