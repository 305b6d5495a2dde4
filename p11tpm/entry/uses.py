"""Which functions use what, and how each use gets its line in the log. Loaded only with the setting 'log-uses'.

A row of `_ROWS` watches one function: it is called in the function's place, and calls it.
"""

from __future__ import annotations

from p11tpm.attribute import TRUE, kind, row_of
from p11tpm.ck import CKA, CKR, CKU, UNAVAILABLE
from p11tpm.core.session import DECRYPT, ENCRYPT, SIGN, SIGN_RECOVER, VERIFY, VERIFY_RECOVER
from p11tpm.core.uses import KEYS, PRIVATE_OR_SECRET, Use, this_program
from p11tpm.entry.c_memory import MOST_ATTRIBUTES, NULL, read_template
from p11tpm.entry.run import module
from p11tpm.error import Error, GoneError, asks_length, rv_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from p11tpm.attribute import Template
    from p11tpm.core.session import Session

    Function = Callable[..., None]
    Ptr = Any


class Uses:
    """The uses of one run: those of operations that are active, until these end."""

    def __init__(self) -> None:
        self._program = this_program()
        self._begun: dict[Session, dict[str, Use]] = {}

    def write(self, use: Use, answer: int, classes: frozenset[int] = KEYS) -> None:
        """Log a use, unless its key is known to be of another class than these."""
        object_class = kind(use.keys[0])[0] if use.keys and CKA.CLASS in use.keys[0] else None
        if object_class is None or object_class in classes:
            use.write(self._program, answer)

    def begin(self, session: Session, kind_: str, use: Use) -> None:
        """Keep the use of an operation that has begun, until it ends."""
        self._begun.setdefault(session, {})[kind_] = use

    def end(self, session: Session, kind_: str = "", answer: int = CKR.FUNCTION_CANCELED) -> None:
        """Log the operations of a session that have ended: that of a kind with the answer, others as cancelled."""
        begun = self._begun.get(session, {})
        for ended in [one for one in begun if not session.has(one)]:
            self.write(begun.pop(ended), answer if ended == kind_ else CKR.FUNCTION_CANCELED, PRIVATE_OR_SECRET)
        if not begun:
            self._begun.pop(session, None)

    def end_all(self, sessions: Iterable[Session] | None = None) -> None:
        """Log the operations that were cancelled; a session in which a call goes on does so when that has ended."""
        for session in list(self._begun) if sessions is None else sessions:
            if session.lock.acquire(blocking=False):
                try:
                    self.end(session)
                finally:
                    session.lock.release()

    def finish(self) -> None:
        """Log the operations that were active at the end of the run."""
        for session in list(self._begun):
            session.cancel_all()
        self.end_all()


class _Once:
    """A function that uses its keys in one call.

    `keys`, `mechanism` and `made` are positions in its arguments: of the keys that it is given, of its mechanism, and
    of the template of the key that it makes, whose handle it writes to its last argument. `role` returns whose PIN is
    used.
    """

    def __init__(
        self,
        done: str,
        *keys: int,
        mechanism: int | None = None,
        made: int | None = None,
        role: Callable[[Session, tuple[Any, ...]], int] | None = None,
    ) -> None:
        self._done = done
        self._keys = keys
        self._mechanism = mechanism
        self._made = made
        self._role = role

    def __call__(self, uses: Uses, function: Function, *args: Any) -> None:
        session = _session(args[0])
        if session is None:
            function(*args)
            return
        use = self._use(session, args)  # a key that is destroyed is not there afterwards
        try:
            function(*args)
        except BaseException as error:
            if not asks_length(error):
                self._write(uses, use, rv_of(error), [] if self._made is None else [_wanted(args, self._made)])
            raise
        self._write(uses, use, CKR.OK, [] if self._made is None else [_key(session, args[-1][0])])

    def _use(self, session: Session, args: tuple[Any, ...]) -> Use:
        mechanism = None if self._mechanism is None else _type(args[self._mechanism])
        role = None if self._role is None else self._role(session, args)
        keys = (_key(session, args[position]) for position in self._keys)
        return Use(self._done, session.token.seen.label, *keys, role=role, mechanism=mechanism)

    @staticmethod
    def _write(uses: Uses, use: Use, answer: int, made: list[Template]) -> None:
        use.keys += made
        uses.write(use, answer)


class _Login(_Once):
    """A login: one that locks a PIN ends operations."""

    def __call__(self, uses: Uses, function: Function, *args: Any) -> None:
        try:
            super().__call__(uses, function, *args)
        finally:
            uses.end_all()


class _Begin:
    """A function that begins an operation: its use is logged when the operation ends, or here if it does not begin."""

    def __init__(self, done: str, kind_: str) -> None:
        self._done = done
        self._kind = kind_

    def __call__(self, uses: Uses, function: Function, handle: int, mechanism: Ptr, key: int) -> None:
        session = _session(handle)
        if session is None:
            function(handle, mechanism, key)
        elif mechanism == NULL and session.has(self._kind):
            _CANCEL(uses, function, handle, mechanism, key)  # the call that uses the operation is not waited for
        else:
            with session.lock:
                self._begin(uses, function, session, handle, mechanism, key)

    def _begin(self, uses: Uses, function: Function, session: Session, handle: int, mechanism: Ptr, key: int) -> None:
        use = Use(self._done, session.token.seen.label, _key(session, key), mechanism=_type(mechanism))
        try:
            function(handle, mechanism, key)
        except BaseException as error:
            uses.write(use, rv_of(error), PRIVATE_OR_SECRET)
            raise
        uses.end(session)  # another thread, or a NULL mechanism, may have ended one
        if mechanism != NULL:
            uses.begin(session, self._kind, use)


class _GoOn:
    """A function that goes on with an operation, which it may end."""

    def __init__(self, kind_: str) -> None:
        self._kind = kind_

    def __call__(self, uses: Uses, function: Function, *args: Any) -> None:
        session = _session(args[0])
        if session is None:
            function(*args)
            return
        answer = CKR.OK
        with session.lock:
            try:
                function(*args)
            except BaseException as error:
                answer = rv_of(error)
                raise
            finally:
                uses.end(session, self._kind, answer)


class _Cancel:
    """A function that ends operations: of the session that it is given, or of any."""

    def __init__(self, *, of_any: bool) -> None:
        self._of_any = of_any

    def __call__(self, uses: Uses, function: Function, *args: Any) -> None:
        session = None if self._of_any else _session(args[0])
        try:
            function(*args)
        finally:
            uses.end_all(None if session is None else [session])


def _finalize(uses: Uses, function: Function, reserved: Ptr) -> None:
    function(reserved)
    uses.finish()


def _init_token(uses: Uses, function: Function, slot: int, *args: Any) -> None:
    answer = CKR.OK
    try:
        function(slot, *args)
    except BaseException as error:
        answer = rv_of(error)
        raise
    finally:
        uses.write(Use("init-token", _label(slot), role=CKU.SO), answer)


def _read(uses: Uses, function: Function, handle: int, key: int, template: Ptr, count: int) -> None:
    """Watch C_GetAttributeValue, which gives the secret part of a key that is readable."""
    session = _session(handle)
    attributes = {} if session is None else _key(session, key)
    answer = CKR.OK
    try:
        function(handle, key, template, count)
    except BaseException as error:
        answer = rv_of(error)
        raise
    finally:
        if session is not None and _is_readable(attributes) and template != NULL and count <= MOST_ATTRIBUTES:
            entries = (template[at] for at in range(count))
            given = [entry.type for entry in entries if entry.pValue != NULL and entry.ulValueLen != UNAVAILABLE]
            if any(_is_secret(attributes, type_) for type_ in given):
                uses.write(Use("read", session.token.seen.label, attributes), answer)


def _is_readable(key: Template) -> bool:
    return key.get(CKA.EXTRACTABLE) == TRUE and key.get(CKA.SENSITIVE) != TRUE


def _is_secret(key: Template, type_: int) -> bool:
    row = row_of(*kind(key), type_)
    return row is not None and row.sensitive


def _session(handle: int) -> Session | None:
    """Return a session; None for a handle with which the function fails, too."""
    try:
        return module().session(handle)
    except Error:
        return None


def _key(session: Session, handle: int) -> Template:
    """Return the attributes of a key as it is in the store, none if it is not there or hidden."""
    try:
        return session.token.objects.record(module().id_of(session.token, handle)).attributes
    except GoneError:  # which ends the login: the function itself would find no more than an unknown handle
        raise
    except Exception:  # noqa: BLE001 - the function itself finds out, and what it answers is logged
        return {}


def _wanted(args: tuple[Any, ...], position: int) -> Template:
    """Return the attributes of a key that was not made."""
    try:
        return read_template(args[position], args[position + 1])
    except Error:
        return {}


def _type(mechanism: Ptr) -> int | None:
    return None if mechanism == NULL else int(mechanism.mechanism)


def _label(slot: int) -> str:
    try:
        token = module().slot(slot)
    except Error:
        return ""
    return token.seen.label if token else ""


def _role_of_change(session: Session, _args: tuple[Any, ...]) -> int:
    return CKU.SO if session.token.logged_in == CKU.SO else CKU.USER


_CANCEL = _Cancel(of_any=False)
_LOGIN = _Login("login", role=lambda _, args: int(args[1]))
_ROWS: dict[str, Callable[..., None]] = {
    "C_Finalize": _finalize,
    "C_InitToken": _init_token,
    "C_InitPIN": _Once("init-pin", role=lambda *_: CKU.USER),
    "C_SetPIN": _Once("set-pin", role=_role_of_change),
    "C_Login": _LOGIN,
    "C_LoginUser": _LOGIN,
    "C_Logout": _Cancel(of_any=True),
    "C_CloseSession": _CANCEL,
    "C_CloseAllSessions": _Cancel(of_any=True),
    "C_SessionCancel": _CANCEL,
    "C_CreateObject": _Once("create", made=1),
    "C_CopyObject": _Once("copy", 1, made=2),
    "C_DestroyObject": _Once("destroy", 1),
    "C_GetAttributeValue": _read,
    "C_SetAttributeValue": _Once("change", 1),
    "C_GenerateKey": _Once("generate", mechanism=1, made=2),
    "C_GenerateKeyPair": _Once("generate", mechanism=1, made=4),
    "C_DeriveKey": _Once("derive", 2, mechanism=1, made=3),
    "C_WrapKey": _Once("wrap", 2, 3, mechanism=1),
    "C_UnwrapKey": _Once("unwrap", 2, mechanism=1, made=5),
    "C_DigestKey": _Once("digest", 1),
    "C_SignInit": _Begin("sign", SIGN),
    **dict.fromkeys(("C_Sign", "C_SignUpdate", "C_SignFinal"), _GoOn(SIGN)),
    "C_SignRecoverInit": _Begin("sign", SIGN_RECOVER),
    "C_SignRecover": _GoOn(SIGN_RECOVER),
    "C_VerifyInit": _Begin("verify", VERIFY),
    **dict.fromkeys(("C_Verify", "C_VerifyUpdate", "C_VerifyFinal"), _GoOn(VERIFY)),
    "C_VerifyRecoverInit": _Begin("verify", VERIFY_RECOVER),
    "C_VerifyRecover": _GoOn(VERIFY_RECOVER),
    "C_EncryptInit": _Begin("encrypt", ENCRYPT),
    **dict.fromkeys(("C_Encrypt", "C_EncryptUpdate", "C_EncryptFinal"), _GoOn(ENCRYPT)),
    **dict.fromkeys(("C_DigestEncryptUpdate", "C_SignEncryptUpdate"), _GoOn(ENCRYPT)),
    "C_DecryptInit": _Begin("decrypt", DECRYPT),
    **dict.fromkeys(("C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal"), _GoOn(DECRYPT)),
    **dict.fromkeys(("C_DecryptDigestUpdate", "C_DecryptVerifyUpdate"), _GoOn(DECRYPT)),
}


def watchers() -> dict[str, Callable[[Function], Function]]:
    """Return what makes of each function that uses something one that logs it, for one run."""
    uses = Uses()

    def watching(row: Callable[..., None]) -> Callable[[Function], Function]:
        return lambda function: lambda *args: row(uses, function, *args)

    return {function: watching(row) for function, row in _ROWS.items()}
