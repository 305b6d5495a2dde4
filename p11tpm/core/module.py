"""Module: one run of the library, from C_Initialize to C_Finalize: slots, sessions and handles."""

from __future__ import annotations

import _thread
from itertools import count

from p11tpm.ck import CKR, CKU
from p11tpm.core.session import Session
from p11tpm.core.token import Token
from p11tpm.error import Error
from p11tpm.host import log
from p11tpm.host.config import Config
from p11tpm.host.ending import Ending
from p11tpm.host.imports import load_fcntl
from p11tpm.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.core.object import Object
    from p11tpm.store import TokenRow


class Handles:
    """Handles of things: counted up from 1, never used twice in a run, never an address."""

    def __init__(self, not_found: int) -> None:
        self._not_found = not_found
        self._next = count(1).__next__
        self._things: dict[int, Any] = {}

    def add(self, thing: Any) -> int:
        """Add an object and return its handle."""
        handle = self._next()
        self._things[handle] = thing
        return handle

    def __getitem__(self, handle: int) -> Any:
        try:
            return self._things[handle]
        except KeyError:
            raise Error(self._not_found, f"there is no handle {handle}") from None

    def pop(self, handle: int) -> Any:
        """Remove a handle and return its object; of two threads that try, one gets it."""
        thing = self._things.pop(handle, None)
        if thing is None:
            raise Error(self._not_found, f"there is no handle {handle}")
        return thing

    def all(self) -> list[Any]:
        """Return all objects that have a handle now."""
        return list(self._things.values())


def _key(token: Token, id_: int) -> tuple[int, bytes, int]:
    """Return what tells an object from all others: a token that takes another one's place may have the same numbers."""
    return token.id, b"" if id_ < 0 else token.seen.uuid, id_


class Module:
    """A run of the library in this process."""

    def __init__(self) -> None:
        self.config = Config.load()
        log.configure(self.config)
        self.store = Store(self.config.store)
        self._lock = _thread.RLock()  # nobody waits for a TPM while it is held
        self._opening = _thread.RLock()  # taken before the other one, and held until the last session's login has ended
        self._running = _thread.allocate_lock()
        self._running.acquire()
        self._tokens: dict[int, Token] = {}
        self._ended = False
        self._sessions = Handles(CKR.SESSION_HANDLE_INVALID)
        self._sessions_by_slot: dict[int, dict[int, Session]] = {}
        self._objects = Handles(CKR.OBJECT_HANDLE_INVALID)
        self._object_handles: dict[tuple[int, bytes, int], int] = {}

    # -- slots: the slot of a token has the token's identifier in the store, which never changes

    def slots(self) -> list[int]:
        """Return the identifiers of the slots: that of the token that is shown, or one slot without a token.

        Hosts such as OpenSSH try one PIN on every slot, so there is one token, unless the configuration asks for more.
        """
        return list(self._shown())

    def _shown(self) -> dict[int, TokenRow | None]:
        rows = self.store.tokens()
        if not rows:
            return {self.store.next_token_id(): None}
        wanted = self.config.token
        if wanted is None:
            rows = rows[:1]
        return {row.id: row for row in rows if wanted in {None, "*", row.label}}

    def slot(self, slot: int) -> Token | None:
        """Return the token in a slot, None if it is not initialised; CKR_SLOT_ID_INVALID if there is no such slot."""
        shown = self._shown()
        if slot not in shown:
            raise Error(CKR.SLOT_ID_INVALID, f"there is no slot {slot}")
        row = shown[slot]
        if row is None:
            return None
        with self._lock:
            if slot not in self._tokens:
                self._require_run()
                self._tokens[slot] = Token(self.config, self.store, row)
            self._tokens[slot].seen = row
            return self._tokens[slot]

    def _require_run(self) -> None:
        if self._ended:
            raise Error(CKR.CRYPTOKI_NOT_INITIALIZED, "another thread has called C_Finalize")

    def token(self, slot: int) -> Token:
        """Return the initialised token in a slot; CKR_TOKEN_NOT_RECOGNIZED if it is not initialised."""
        token = self.slot(slot)
        if token is None:
            raise Error(CKR.TOKEN_NOT_RECOGNIZED, "the token is not initialised: run p11tpm init")
        return token

    def init_token(self, slot: int, label: str, so_pin: bytes) -> None:
        """Initialise the token in a slot, or initialise it again; CKR_SESSION_EXISTS while sessions are open."""
        with self._opening:
            token = self.slot(slot)
            if self.sessions_of(slot):
                raise Error(CKR.SESSION_EXISTS, "close the sessions first")
            if token is not None:
                token.reinitialize(label, so_pin)
            elif not self.store.writable:
                raise Error(CKR.TOKEN_WRITE_PROTECTED, f"the store {self.config.store} cannot be written to")
            else:
                Token.initialize(self.config, self.store, label, so_pin)

    # -- sessions

    def open_session(self, slot: int, *, read_write: bool) -> int:
        """Open a session and give its handle (clause 5.6.1)."""
        token = self.token(slot)
        if not read_write and token.logged_in == CKU.SO:
            raise Error(CKR.SESSION_READ_WRITE_SO_EXISTS, "the SO is logged in: read-write sessions only")
        load_fcntl()
        session = Session(token, read_write=read_write)
        with self._opening, self._lock:
            session.handle = self._sessions.add(session)
            self._sessions_by_slot.setdefault(slot, {})[session.handle] = session
        return session.handle

    def session(self, handle: int) -> Session:
        """Find a session; CKR_SESSION_HANDLE_INVALID."""
        session: Session = self._sessions[handle]
        return session

    def sessions_of(self, slot: int) -> list[Session]:
        """Return the open sessions with the token of a slot."""
        return list(self._sessions_by_slot.get(slot, {}).values())

    def close_session(self, handle: int) -> None:
        """Close a session with its session objects; the last one ends the login (clause 5.6.2)."""
        self._close(self.session(handle).token, handle)

    def close_all(self, slot: int) -> None:
        """Close every session with the token of a slot (clause 5.6.3)."""
        token = self.slot(slot)
        if token is not None:
            self._close(token)

    def _close(self, token: Token, handle: int | None = None) -> None:
        """Close one session with a token, or all of them."""
        ending = Ending()
        with self._lock:
            open_ = self._sessions_by_slot.get(token.id, {})
            closed = set(open_) if handle is None else {handle}
            for one in closed:
                self._sessions.pop(one).cancel_all()
                del open_[one]
        token.objects.end_sessions(closed)
        if token.logged_in is not None and not open_:
            with ending.holding(self._opening, lambda: None):
                if not open_ and token.logged_in is not None:
                    self._end_login(token, ending)

    def login(self, session: Session, user: int, pin: bytes) -> None:
        """Log in; the SO needs all sessions to be read-write (clause 5.6.8)."""
        nobody = session.token.logged_in is None
        if nobody and user == CKU.SO and not all(other.read_write for other in self.sessions_of(session.token.id)):
            raise Error(CKR.SESSION_READ_ONLY_EXISTS, "the SO needs all sessions to be read-write")
        session.token.login(user, pin)

    def authenticate(self, session: Session, pin: bytes) -> None:
        """Check the PIN that operations of the session wait for; if that locks it, the user is logged out."""
        try:
            session.authenticate(pin)
        except Error as error:
            if error.rv == CKR.PIN_LOCKED:
                self._log_out(session)
            raise

    def logout(self, session: Session) -> None:
        """Log out (clause 5.6.9); CKR_USER_NOT_LOGGED_IN if nobody is logged in."""
        if not self._log_out(session):
            raise Error(CKR.USER_NOT_LOGGED_IN, "nobody is logged in")

    def _log_out(self, session: Session) -> bool:
        """Log out, and end what the sessions had begun; return whether somebody was logged in."""
        was_logged_in = self._end_login(session.token, Ending())
        for other in self.sessions_of(session.token.id) if was_logged_in else ():
            other.cancel_all()
        return was_logged_in

    def _end_login(self, token: Token, ending: Ending) -> bool:
        """Log out; handles of private objects end with the login, whoever logs in next (clause 5.6.9).

        Return whether somebody was logged in: another thread may have logged out meanwhile.
        """
        known = self._known_of(token)
        private = self._private_among(token, known)
        if not token.logout(ending):
            return False
        private |= self._private_among(token, self._known_of(token) - known)  # those that got a handle meanwhile
        with self._lock:
            for id_ in private:
                handle = self._object_handles.pop(_key(token, id_), None)
                if handle is not None:
                    self._objects.pop(handle)
        return True

    def _known_of(self, token: Token) -> set[int]:
        with self._lock:
            return {key[-1] for key in self._object_handles if key == _key(token, key[-1])}

    def _private_among(self, token: Token, known: set[int]) -> set[int]:
        try:
            return token.objects.private_among(known)
        except Error:  # the store cannot be read, and nothing of it is sure to be public
            return known

    # -- objects

    def handle_of(self, token: Token, id_: int) -> int:
        """Return the handle of an object: the same one for the whole run, that of a private object until a logout."""
        key = _key(token, id_)
        with self._lock:
            handle = self._object_handles.get(key)
            if handle is None:
                handle = self._object_handles[key] = self._objects.add(key)
            return handle

    def id_of(self, token: Token, handle: int) -> int:
        """Return the identifier of an object in the token; CKR_OBJECT_HANDLE_INVALID."""
        key = self._objects[handle]
        if key != _key(token, key[-1]):
            raise Error(CKR.OBJECT_HANDLE_INVALID, "the object is in another token, or was in one that is gone")
        return int(key[-1])

    def object(self, session: Session, handle: int) -> Object:
        """Read the object behind a handle; CKR_OBJECT_HANDLE_INVALID if it is gone or hidden."""
        return session.token.objects.get(self.id_of(session.token, handle))

    def key(self, session: Session, handle: int, not_found: int = CKR.KEY_HANDLE_INVALID) -> Object:
        """Read a key; `not_found` if it is gone or hidden."""
        try:
            return session.take(self.object(session, handle))
        except Error as error:
            if error.rv == CKR.OBJECT_HANDLE_INVALID:
                raise Error(not_found, error.why) from None
            raise

    # -- the end

    def wait_for_end(self) -> None:
        """Wait until the run ends, without the GIL: no slot ever has another event (clause 5.5.4)."""
        with self._running:
            pass

    def close(self) -> None:
        """End the run: logins, keys in the TPM, connections."""
        ending = Ending()
        self._running.release()
        with self._lock:
            self._ended = True
        self._cancel_all()
        for token in list(self._tokens.values()):
            token.close(ending, for_ever=True)
        self.store.close()

    def _cancel_all(self) -> None:
        """End the operations of all sessions, which have keys."""
        for sessions in list(self._sessions_by_slot.values()):
            for session in list(sessions.values()):
                session.cancel_all()

    def pause(self) -> None:
        """Before a fork: let transactions of other threads end."""
        self.store.pause()

    def resume(self) -> None:
        """In the parent after a fork: go on."""
        self.store.resume()

    def abandon(self) -> None:
        """Forget everything in a forked child, without touching what the parent goes on using."""
        self._cancel_all()
        for token in list(self._tokens.values()):
            token.abandon()
        self.store.abandon()
