"""A session: a host's view of a token, with the operations that it has begun."""

from __future__ import annotations

import _thread

from p11tpm.attribute import TRUE, Template
from p11tpm.ck import CKA, CKF, CKR, CKS, CKU
from p11tpm.error import Error, asks_length

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token

_STATES = {  # (read-write, who is logged in): state (PKCS#11 Base Specification 3.0, clause 3.3)
    (False, None): CKS.RO_PUBLIC_SESSION,
    (False, CKU.USER): CKS.RO_USER_FUNCTIONS,
    (True, None): CKS.RW_PUBLIC_SESSION,
    (True, CKU.USER): CKS.RW_USER_FUNCTIONS,
    (True, CKU.SO): CKS.RW_SO_FUNCTIONS,
}

# Kinds of operations: a session has at most one of each (clause 3.3)
FIND = "search"
DIGEST = "digest"
ENCRYPT = "encryption"
DECRYPT = "decryption"
SIGN = "signature"
SIGN_RECOVER = "signature with recovery"
VERIFY = "verification"
VERIFY_RECOVER = "verification with recovery"

_KEYLESS = {FIND, DIGEST}
_ALWAYS, _WITH_AN_ERROR, _NEVER = "always", "with an error", "never"  # when a call ends the operation that it uses
_KINDS = {  # flag of C_SessionCancel: what it ends (clause 5.6.5); messages (CKF_MESSAGE_...) are never active here
    CKF.FIND_OBJECTS: FIND,
    CKF.DIGEST: DIGEST,
    CKF.ENCRYPT: ENCRYPT,
    CKF.DECRYPT: DECRYPT,
    CKF.SIGN: SIGN,
    CKF.SIGN_RECOVER: SIGN_RECOVER,
    CKF.VERIFY: VERIFY,
    CKF.VERIFY_RECOVER: VERIFY_RECOVER,
}


class Session:
    """One session. It costs no TPM handle, no thread and no file, so there may be thousands."""

    def __init__(self, token: Token, *, read_write: bool) -> None:
        self.handle = 0
        self.token = token
        self.read_write = read_write
        self._operations: dict[str, Any] = {}
        self._keys: dict[str, Object] = {}  # of operations that want a PIN of their own
        self._taken: Object | None = None
        self.lock = _thread.RLock()  # for the length of each call that uses an operation

    @property
    def state(self) -> int:
        """CKS_ state."""
        return _STATES[self.read_write, self.token.logged_in]

    def begin(self, kind: str, operation: Any) -> None:
        """Start an operation; CKR_OPERATION_ACTIVE if one of its kind is active."""
        with self.lock:
            self.require_none(kind)
            self._operations[kind] = operation
            self._keys.pop(kind, None)
            if self._taken is not None and kind not in _KEYLESS:
                self._keys[kind] = self._taken
                self._taken = None

    def require_none(self, kind: str) -> None:
        """Refuse a second operation of a kind, before anything is looked at: CKR_OPERATION_ACTIVE."""
        if kind in self._operations:
            raise Error(CKR.OPERATION_ACTIVE, "an operation of this kind is active in the session")

    def cancel(self, kind: str) -> bool:
        """End an operation without a result, as soon as a call that uses it has ended; False if there was none.

        That call is not waited for.
        """
        return self._operations.pop(kind, None) is not None

    def cancel_these(self, flags: int) -> None:
        """End the operations that CKF_ flags name; those that are not active, and other flags, are passed over."""
        for flag, kind in _KINDS.items():
            if flags & flag:
                self.cancel(kind)

    def cancel_all(self) -> None:
        """End every operation, as login, logout and the end of the session do; no call is waited for."""
        self._operations.clear()
        self._keys.clear()
        self._taken = None

    def has(self, kind: str) -> bool:
        """Return whether an operation of a kind is active."""
        return kind in self._operations

    @property
    def calculates(self) -> bool:
        """Whether an operation other than a search is active."""
        return any(kind != FIND for kind in self._operations)

    # -- keys with CKA_ALWAYS_AUTHENTICATE (clause 4.9)

    def take(self, key: Object) -> Object:
        """Return a key for the next operation: one that wants a PIN for each use does so for each operation."""
        self._taken = None
        if key.waits:
            key = self._taken = key.for_one_use()
        return key

    def authenticate(self, pin: bytes) -> None:
        """Allow one use of the keys that wait for a PIN; CKR_OPERATION_NOT_INITIALIZED if none does.

        A wrong PIN is counted as it is at a login: CKR_PIN_INCORRECT, CKR_PIN_LOCKED; the operation goes on waiting.
        """
        with self.lock:
            keys = [key for kind, key in self._keys.items() if kind in self._operations and key.waits]
            if not keys or self.token.seen.no_pin:
                raise Error(CKR.OPERATION_NOT_INITIALIZED, "no operation waits for its own login")
            self.token.check_pin(pin)
            for key in keys:
                key.waits = False

    def using(self, kind: str) -> _Use:
        """Use an operation for the last time; it goes on if only a length was asked for or the buffer was too small."""
        return _Use(self.lock, self._operations, kind, ends=_ALWAYS)

    def going_on(self, kind: str) -> _Use:
        """Use an operation that goes on after this call, unless it fails."""
        return _Use(self.lock, self._operations, kind, ends=_WITH_AN_ERROR)

    def keeping(self, kind: str) -> _Use:
        """Use an operation that goes on, as it was before the call if that fails (clauses 5.7.9, 5.12.4 and 5.16)."""
        return _Use(self.lock, self._operations, kind, ends=_NEVER)

    def require_write(self, attributes: Template) -> None:
        """Refuse to change token objects in a read-only session: CKR_SESSION_READ_ONLY (clause 4.4).

        A host that is not logged in hears that first: it has to log in anyway.
        """
        if attributes.get(CKA.TOKEN) != TRUE or self.read_write:
            return
        if attributes.get(CKA.PRIVATE) == TRUE and not self.token.sees_private:
            raise Error(CKR.USER_NOT_LOGGED_IN, "private objects need a login")
        raise Error(CKR.SESSION_READ_ONLY, "token objects change in read-write sessions only")


class _Use:
    """An active operation for the length of one call, with the session's lock."""

    __slots__ = ("_ends", "_kind", "_lock", "_operations")

    def __init__(self, lock: _thread.RLock, operations: dict[str, Any], kind: str, *, ends: str) -> None:
        self._lock = lock
        self._operations = operations
        self._kind = kind
        self._ends = ends

    def __enter__(self) -> Any:
        self._lock.acquire()
        operation = self._operations.get(self._kind)
        if operation is None:
            self._lock.release()
            raise Error(CKR.OPERATION_NOT_INITIALIZED, "no operation of this kind is active in the session")
        return operation

    def __exit__(self, _type: object, error: BaseException | None, _trace: TracebackType | None) -> None:
        ends = self._ends == _ALWAYS
        if error is not None and self._ends != _NEVER:
            ends = not asks_length(error)
        if ends:
            self._operations.pop(self._kind, None)
        self._lock.release()
