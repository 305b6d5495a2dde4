"""A token: one storage root key's worth of PINs and objects in the store, with the login of this process."""

from __future__ import annotations

import _thread
from posix import urandom

from p11tpm import attribute
from p11tpm.attribute import FALSE, TRUE, Template, to_ulong
from p11tpm.ck import CKA, CKF, CKO, CKR, CKU
from p11tpm.core.object import Object
from p11tpm.error import Error, GoneError
from p11tpm.host.ending import Ending
from p11tpm.host.imports import import_lock
from p11tpm.mechanism import Mechanism, offered
from p11tpm.store import Record
from p11tpm.store.session_objects import LAST, SessionObjects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from p11tpm.core.profile import Profiles
    from p11tpm.core.software import InSoftware
    from p11tpm.core.token_tpm import TokenTpm
    from p11tpm.host.config import Config
    from p11tpm.store import Store, TokenRow

_MOST_READ = 64  # objects that are kept after they were read
_PROFILE = attribute.ulong(CKO.PROFILE)


class Token:
    """One token: its row in the store, its objects, who is logged in, and its part of the TPM."""

    def __init__(self, config: Config, store: Store, row: TokenRow) -> None:
        self._config = config
        self._store = store
        self.lock = _Lock(self)
        self.seen = row  # the token as it was when somebody asked last
        self._tpm: TokenTpm | None = None
        self._ended = False
        self._profiles: Profiles | None = None
        self._read_before: dict[int, Object] = {}
        self._read_at: object = None
        self.id = row.id
        self.memory = SessionObjects()
        self.logged_in: int | None = None

    @property
    def tpm(self) -> TokenTpm:
        """What the TPM does for the token. Its users do not wait for a thread that makes a key."""
        if self._tpm is not None:
            return self._tpm
        with self.lock:
            if self._tpm is None:
                if self._ended:
                    raise Error(CKR.CRYPTOKI_NOT_INITIALIZED, "another thread has called C_Finalize")
                with import_lock:
                    from p11tpm.core.token_tpm import TokenTpm

                self._tpm = TokenTpm(self._config, self._store, self.id, lambda: self.row)
            return self._tpm

    # -- the token itself

    @classmethod
    def open_all(cls, config: Config, store: Store) -> list[Self]:
        """Return every token of the store, shown as a slot or not."""
        return [cls(config, store, row) for row in store.tokens()]

    @classmethod
    def create(cls, config: Config, store: Store, label: str, so_pin: bytes | None, pin: bytes | None) -> Self:
        """Make a token: storage root key, SO and USER objects in the TPM, one row in the store.

        Without `pin` the token needs no login, and its keys are protected by the store's file mode alone. Without
        `so_pin` nobody can reset a PIN. The store is changed last, in one transaction.
        """
        return cls._create(config, store, label, so_pin, pin, no_pin=pin is None)

    @classmethod
    def initialize(cls, config: Config, store: Store, label: str, so_pin: bytes) -> Self:
        """Make a token as C_InitToken does: with an SO, whose turn it then is to set the user's PIN (clause 5.5.7)."""
        return cls._create(config, store, label, so_pin, None, no_pin=False)

    @classmethod
    def _create(
        cls, config: Config, store: Store, label: str, so_pin: bytes | None, pin: bytes | None, *, no_pin: bool
    ) -> Self:
        with import_lock:
            from p11tpm.core import token_tpm
            from p11tpm.core.pin import check_new

        for new in (so_pin, pin):
            if new is not None:
                check_new(new, config.pin_min)
        tpm = token_tpm.connect(config, store)
        try:
            row = token_tpm.new_row(tpm, label, so_pin, pin, no_pin=no_pin)
        finally:
            tpm.release()
        row.id = store.add_token(row)
        return cls(config, store, row)

    def reinitialize(self, label: str, so_pin: bytes) -> None:
        """Destroy all objects and the user's PIN, if the SO's PIN is right; it stays (C_InitToken, clause 5.5.7)."""
        with import_lock:
            from p11tpm.core.token_tpm import new_row

        with self.lock:
            try:
                self.tpm.open(CKU.SO, so_pin)
                self._evict_all()
                new = new_row(self.tpm.tpm, label, so_pin, None, no_pin=False)
                new.id = self.id
                self._store.replace_token(new, self.tpm.row.uuid)
            finally:
                self.close(Ending())

    def delete(self) -> None:
        """Remove the token and all of its objects from the store, and its resident keys from the TPM.

        CKR_ACTION_PROHIBITED if the TPM's owner has to agree to the latter; GoneError if another token is in the place
        of the one that was seen last.
        """
        was = self.seen.uuid
        there = self._store.token(self.id)
        if there is not None and there.uuid != was:
            raise GoneError(deleted=False)
        self._evict_all()
        self.close(Ending())
        self._store.delete_token(self.id, was)

    def _evict_all(self) -> None:
        records = self._store.residents(self.id)
        if records:
            self.tpm.evict(records)

    @property
    def row(self) -> TokenRow:
        """The token as it is in the store now; CKR_TOKEN_NOT_PRESENT if another program deleted it."""
        row = self._store.token(self.id)
        if row is None:
            raise GoneError(deleted=True)
        self.seen = row
        return row

    @property
    def label(self) -> str:
        """The label, without padding."""
        return self.row.label

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the TPM can do, as it said when the token was made: words such as ``rsa2048`` and ``p256``."""
        return tuple(self.seen.capabilities.split())

    @property
    def mechanisms(self) -> dict[int, tuple[Mechanism, tuple[int, ...]]]:
        """The mechanisms by type, with their key sizes; nothing is asked for them."""
        return offered(self.seen.capabilities, self._config.mechanisms)

    def mechanism(self, type_: int, does: int) -> Mechanism:
        """Find a mechanism that does what is asked (a CKF_ flag); CKR_MECHANISM_INVALID if there is none."""
        row, _ = self.mechanisms.get(type_, (None, ()))
        if row is None or not row.does & does:
            raise Error(CKR.MECHANISM_INVALID, f"mechanism {type_:#x} is not there for this function")
        return row

    @property
    def writable(self) -> bool:
        """Whether the store can be written to."""
        return self._store.writable

    def flags(self, row: TokenRow) -> int:
        """Return CK_TOKEN_INFO.flags of the token in this state (clause 3.2); asks the TPM only after a wrong PIN."""
        flags = CKF.RNG | CKF.TOKEN_INITIALIZED
        flags |= 0 if self.writable else CKF.WRITE_PROTECTED
        if not row.no_pin:
            flags |= CKF.LOGIN_REQUIRED | (CKF.PROTECTED_AUTHENTICATION_PATH if self._config.pin_file else 0)
        flags |= CKF.USER_PIN_INITIALIZED if row.user_pin_set else 0
        if not self._store.any_failure(row):
            return flags
        return flags | self.tpm.tries[CKU.SO].flags() | self.tpm.tries[CKU.USER].flags()

    # -- logins and PINs (clause 5.5.7 to 5.5.9 and 5.6.8, 5.6.9)

    def login(self, user: int, pin: bytes) -> None:
        """Log in for the whole process.

        Raises CKR_USER_ALREADY_LOGGED_IN, CKR_USER_ANOTHER_ALREADY_LOGGED_IN, CKR_USER_PIN_NOT_INITIALIZED,
        CKR_PIN_INCORRECT, CKR_PIN_LOCKED.
        """
        with self.lock:
            self._require_nobody(user)
            self.tpm.open(user, pin)
            self.logged_in = user

    def _require_nobody(self, user: int) -> None:
        if user == CKU.USER and self.seen.no_pin:  # programs that always log in go on after this error
            raise Error(CKR.USER_ALREADY_LOGGED_IN, "the token has no PIN: there is no need to log in")
        if self.logged_in == user:
            raise Error(CKR.USER_ALREADY_LOGGED_IN, "already logged in")
        if self.logged_in is not None:
            raise Error(CKR.USER_ANOTHER_ALREADY_LOGGED_IN, "the other role is logged in")

    def pin_of_file(self, user: int) -> bytes:
        """Read the PIN for a login without one from the file that the configuration names (clause 5.6.8).

        CKR_ARGUMENTS_BAD if there is none for this role, CKR_FUNCTION_FAILED if the file cannot be used.
        """
        if user == CKU.USER:
            self._require_nobody(user)
        if user == CKU.SO or self.seen.no_pin or not self._config.pin_file:
            raise Error(CKR.ARGUMENTS_BAD, "the program gave no PIN, and there is no 'pin-file' for this role")
        with import_lock:
            from p11tpm.core.pin_file import PinFile

        return PinFile.configured(self._config).read()

    def check_pin(self, pin: bytes) -> None:
        """Check the user's PIN once more, with the errors of `login` (CKU_CONTEXT_SPECIFIC)."""
        with self.lock:
            self.tpm.check_user(pin)

    def logout(self, ending: Ending) -> bool:
        """End the login of the process: private session objects go, and so do the keys in the TPM (clause 5.6.9).

        Return whether somebody was logged in.
        """
        with ending.holding(self.lock, self._give_up):
            if self.logged_in is None:
                return False
            self.end_login(ending)
            return True

    def end_login(self, ending: Ending) -> None:
        """End the login, if there is one; the caller has the lock."""
        self.logged_in = None
        self._forget_read()
        self.memory.forget_private({CKA.PRIVATE: TRUE})
        if self._tpm is not None:
            self._tpm.shut(ending)

    def lose_login(self) -> None:
        """End the login to a token that is gone, and see what is in its place; the caller has the lock."""
        self.end_login(Ending())
        self.seen = self._store.token(self.id) or self.seen

    def close(self, ending: Ending, *, for_ever: bool = False) -> None:
        """End login, session objects and the connection to the TPM; with `for_ever` it is not opened again."""
        with ending.holding(self.lock, self._give_up):
            self._ended = for_ever
            self.logged_in = None
            self._forget_read()
            self.memory.forget()
            if self._tpm is not None:
                self._tpm.shut(ending, for_ever=for_ever)

    def _give_up(self) -> None:
        if self._tpm is not None:
            self._tpm.tpm.connection.give_up()

    def abandon(self) -> None:
        """Forget the login in a forked child; the connection is the parent's and is not used."""
        self.logged_in = None
        self._forget_read()
        self.memory = SessionObjects()  # the lock of the parent's may be another thread's
        if self._tpm is not None:
            self._tpm.abandon()

    def _forget_read(self) -> None:
        """Forget the objects that were read, with their values."""
        self._read_before, self._read_at = {}, None

    def init_pin(self, pin: bytes) -> None:
        """Set the user's PIN, by the SO (clause 5.5.8)."""
        with self.lock:
            if self.logged_in != CKU.SO:
                raise Error(CKR.USER_NOT_LOGGED_IN, "the SO is not logged in")
            self.tpm.init_pin(pin)

    def set_pin(self, old: bytes, new: bytes) -> None:
        """Change the PIN of whoever is logged in, the user's if nobody is (clause 5.5.9)."""
        with self.lock:
            self.tpm.set_pin(CKU.SO if self.logged_in == CKU.SO else CKU.USER, old, new)

    @property
    def sees_private(self) -> bool:
        """Whether private objects are visible: the user is logged in, or the token has no PIN."""
        return self.logged_in == CKU.USER or self.seen.no_pin

    # -- objects (clause 5.7)

    @property
    def _shelves(self) -> tuple[Store, SessionObjects]:
        return self._store, self.memory

    def _shelf(self, id_: int) -> Store | SessionObjects:
        return self._shelves[id_ < 0]

    @property
    def profiles(self) -> Profiles:
        """The profile objects, which are in no store."""
        with self.lock:
            if self._profiles is None:
                with import_lock:
                    from p11tpm.core.profile import Profiles

                self._profiles = Profiles(self.id)
            return self._profiles

    def find(self, template: Template) -> list[int]:
        """Find the visible objects that match a template, those of the store first."""
        hidden = {} if self.sees_private else {CKA.PRIVATE: TRUE}
        found = self._store.find(self.id, template, hidden) + self.memory.find(template, hidden)
        if CKA.VALUE in template and self.sees_private:
            found += self._find_encrypted(template)
        if template.get(CKA.CLASS) == _PROFILE:
            found += self.profiles.find(template)
        return found

    def private_among(self, ids: set[int]) -> set[int]:
        """Return those of these objects that are private, visible or not."""
        passing = ids.intersection(self.memory.find({CKA.PRIVATE: TRUE}, {}))
        return passing | self._store.having([id_ for id_ in ids if id_ > 0], CKA.PRIVATE, TRUE)

    def _find_encrypted(self, template: Template) -> list[int]:
        """Find private data objects by value: they are stored encrypted, so the store cannot compare."""
        private_data = {CKA.CLASS: attribute.ulong(CKO.DATA), CKA.PRIVATE: TRUE}
        wanted = {**template, **private_data}
        value = wanted.pop(CKA.VALUE)
        if not template.items() <= {**wanted, CKA.VALUE: value}.items():
            return []  # the template wants another class, or public objects
        ids = self._store.find(self.id, wanted, {}) + self.memory.find(wanted, {})
        return [id_ for id_ in ids if self.object(id_).get(CKA.VALUE) == value]

    def object(self, id_: int) -> Object:
        """Return an object that the host may see; CKR_OBJECT_HANDLE_INVALID if it is gone or hidden.

        With a login, a private object must be as this token wrote it, or it is CKR_DEVICE_ERROR. Objects that were read
        are kept for as long as nobody writes to the store and the login stays the same.
        """
        if id_ < 0:
            return self._read(id_)
        state = (self._store.version(), self.logged_in)
        if state != self._read_at or len(self._read_before) >= _MOST_READ:
            self._check_login()
            self._read_before, self._read_at = {}, state
        thing = self._read_before.get(id_)
        if thing is None:
            thing = self._read_before[id_] = self._read(id_)
        return thing

    def record(self, id_: int) -> Record:
        """Return the record of an object that the host may see, as it is stored and not verified."""
        record = self.profiles.record(id_) if id_ < LAST else self._shelf(id_).record(id_)
        if record is None:
            self._check_login()
        if record is None or (record.attributes.get(CKA.PRIVATE) == TRUE and not self.sees_private):
            raise Error(CKR.OBJECT_HANDLE_INVALID, "the object is gone, or it is private and nobody is logged in")
        if id_ > 0 and not attribute.is_whole(record.attributes):
            raise Error(CKR.DEVICE_ERROR, f"object {id_} is damaged: restore the store")
        return record

    def _read(self, id_: int) -> Object:
        record = self.record(id_)
        if self.sees_private and id_ > 0 and _is_ours(record):
            self.tpm.secret.verify(record)
        value = None
        if self._is_encrypted(record.attributes):
            value = self.tpm.secret.decrypt(record.uuid, record.attributes[CKA.VALUE])
        return Object(record, value, self._reveal)

    def _reveal(self, record: Record) -> bytes:
        """Return the value of a secret key: that of a session object is in memory as it is."""
        value = record.secret or b""
        return self.tpm.secret.decrypt(record.uuid, value) if record.id > 0 else value

    @staticmethod
    def _is_encrypted(attributes: Template) -> bool:
        return attributes[CKA.PRIVATE] == TRUE and to_ulong(attributes[CKA.CLASS]) == CKO.DATA

    def user_of(self, key: Object) -> TokenTpm | InSoftware:
        """Return what does the private operations of an RSA or EC key: the TPM, or software for one that may leave."""
        if key.in_tpm or key.record.secret is None:
            return self.tpm
        with import_lock:
            from p11tpm.core.software import InSoftware

        return InSoftware(self.tpm.spend)

    def require_writer(self, attributes: Template) -> None:
        """Refuse to write private objects and keys of the token without a login, and to a store that is read-only."""
        is_key = to_ulong(attributes[CKA.CLASS]) in {CKO.PRIVATE_KEY, CKO.SECRET_KEY}
        needs_login = attributes[CKA.PRIVATE] == TRUE or (is_key and attributes[CKA.TOKEN] == TRUE)
        if needs_login and not self.sees_private:
            raise Error(CKR.USER_NOT_LOGGED_IN, "private objects need a login")
        if attributes[CKA.TOKEN] == TRUE and not self.writable:
            raise Error(CKR.TOKEN_WRITE_PROTECTED, "the store cannot be written to")

    def new_record(self, attributes: Template, secret: bytes | None = None) -> Record:
        """Make the record of a new object; `secret` is the value of a secret key. It is added by `add`."""
        if attributes.get(CKA.TRUSTED) == TRUE and self.logged_in != CKU.SO:
            raise Error(CKR.ATTRIBUTE_READ_ONLY, "CKA_TRUSTED is for the SO to set")
        record = Record(self.id, urandom(16), {**attributes}, secret=secret)
        record.attributes[CKA.UNIQUE_ID] = record.uuid.hex().encode()
        return record

    def new_auth(self, record: Record) -> bytes:
        """Return the authorisation value of a new record's key in the TPM: random and kept with it without a login."""
        if self.sees_private:
            return self.tpm.secret.auth(record.uuid)
        record.auth = urandom(32)
        return record.auth

    def add(self, records: list[Record], session: int) -> list[int]:
        """Add new objects and give their identifiers: to the store, in one transaction, or for as long as `session`.

        What the store keeps is encrypted first where it has to be, and authenticated if there is a login: the one that
        allows the objects, as `require_writer` does, which may have ended since anybody asked. GoneError if the token
        is another one by now.
        """
        with self.lock:
            for record in records:
                self.require_writer(record.attributes)
                self._seal(record)
            kept = [record for record in records if record.attributes[CKA.TOKEN] == TRUE]
            passing = [record for record in records if record.attributes[CKA.TOKEN] != TRUE]
            whose = self._tpm.whose if self._tpm is not None else None
            ids = iter(self._store.add(kept, whose) if kept else [])
            passing_ids = iter(self.memory.add(passing, session) if passing else [])
            return [next(ids if record.attributes[CKA.TOKEN] == TRUE else passing_ids) for record in records]

    def add_new(self, attributes: Template, session: int, secret: bytes | None = None) -> int:
        """Make one new object of these attributes; see `new_record` and `add`."""
        with self.lock:
            return self.add([self.new_record(attributes, secret)], session)[0]

    def _seal(self, record: Record) -> None:
        attributes = record.attributes
        if self._is_encrypted(attributes):
            attributes[CKA.VALUE] = self.tpm.secret.encrypt(record.uuid, attributes[CKA.VALUE])
        if attributes[CKA.TOKEN] == TRUE and record.secret is not None:
            record.secret = self.tpm.secret.encrypt(record.uuid, record.secret)
        if self.sees_private:
            record.mac = self.tpm.secret.mac(record)

    def set_attributes(self, id_: int, changes: Template) -> None:
        """Change attributes of an object (C_SetAttributeValue)."""
        with self.lock:
            while not self._set(id_, changes):
                pass  # another process changed the object meanwhile: once more, on what it made of it

    def _set(self, id_: int, changes: Template) -> bool:
        """Change attributes; False if the object is no longer as it was read."""
        thing = self._read(id_)
        record = thing.record
        self._check_login()
        thing.check_stays(changes)
        attribute.check_change(record.attributes, changes, by_so=self.logged_in == CKU.SO)
        self.require_writer(record.attributes)
        if CKA.VALUE in changes and self._is_encrypted(record.attributes):
            changes = {**changes, CKA.VALUE: self.tpm.secret.encrypt(record.uuid, changes[CKA.VALUE])}
        attributes = {**record.attributes, **changes}
        changed = Record(self.id, record.uuid, attributes, record.tpm_public, record.tpm_private, secret=record.secret)
        mac = self.tpm.secret.mac(changed) if self.sees_private else None
        return self._shelf(id_).update(record, changes, mac)

    def destroy(self, *ids: int) -> None:
        """Delete objects, all or none, and what the TPM holds of them (C_DestroyObject).

        CKR_ACTION_PROHIBITED for a resident key if the TPM's owner has to agree.
        """
        with self.lock:
            self._check_login()
            records = [self.record(id_) for id_ in ids]
            for record in records:
                if record.attributes[CKA.DESTROYABLE] == FALSE:
                    raise Error(CKR.ACTION_PROHIBITED, "the object may not be destroyed")
                self.require_writer(record.attributes)
            if any(record.resident for record in records):
                self.tpm.evict(records)
            by_shelf = [(shelf, [one for one in records if self._shelf(one.id) is shelf]) for shelf in self._shelves]
            if not sum(shelf.delete(some) for shelf, some in by_shelf if some):
                raise Error(CKR.OBJECT_HANDLE_INVALID, "the object was deleted meanwhile")
            if self._tpm is not None:
                for record in records:
                    self._tpm.tpm.forget(record.uuid)

    def _check_login(self) -> None:
        """Raise GoneError if somebody is logged in to a token that is no longer there; ends the login.

        Without the lock, which whoever makes a key has for long, if all is well.
        """
        if self._tpm is None or self._tpm.whose is None:
            return
        try:
            _ = self._tpm.row
        except GoneError:
            with self.lock:
                _ = self._tpm.row

    def end_sessions(self, sessions: set[int]) -> None:
        """Forget the session objects of sessions (clause 4.4)."""
        self.memory.forget(sessions)

    # -- keys that stay in the TPM

    def keep_resident(self, id_: int, owner_auth: bytes = b"") -> int:
        """Leave a key in the TPM and give its persistent handle.

        CKR_DEVICE_MEMORY if the TPM is full, CKR_ACTION_PROHIBITED if `owner_auth` is not what the owner has set.
        """
        with self.lock:
            self._check_login()
            self.require_writer(self.object(id_).attributes)
            return self.tpm.residents.add(self.tpm.srk, self.object(id_).record, owner_auth)

    def end_residence(self, id_: int, owner_auth: bytes = b"") -> bool:
        """Remove a key from the TPM again; False if it was not there. CKR_ACTION_PROHIBITED as in `keep_resident`."""
        with self.lock:
            self._check_login()
            return self.tpm.residents.remove(self.tpm.srk, self.object(id_).record, owner_auth)


class _Lock:
    """A token's lock. A login to a token that turns out to be gone ends before another thread gets the lock."""

    __slots__ = ("_lock", "_token")

    def __init__(self, token: Token) -> None:
        self._lock = _thread.RLock()
        self._token = token

    def acquire(self, timeout: float = -1) -> bool:
        """Acquire it; False if that takes longer than `timeout` seconds."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Release it."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        try:
            if isinstance(error, GoneError):
                self._token.lose_login()
        finally:
            self.release()


def _is_ours(record: Record) -> bool:
    """Return whether only the token can have written a record, whose authentication code must be right then."""
    private = record.attributes.get(CKA.PRIVATE) == TRUE
    return private or record.mac is not None or record.tpm_private is not None or record.secret is not None
