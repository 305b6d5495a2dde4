"""The objects of a token: they are found, read, added, changed and destroyed here (clause 5.7)."""

from __future__ import annotations

from p11tpm import attribute
from p11tpm.attribute import FALSE, TRUE, Template
from p11tpm.ck import CKA, CKO, CKR, CKU
from p11tpm.core.object import Object, is_encrypted
from p11tpm.error import Error
from p11tpm.host.imports import Late
from p11tpm.store.rows import Record
from p11tpm.store.session_objects import LAST, SessionObjects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core import adding, profile
    from p11tpm.core.key_material import KeyMaterial
    from p11tpm.core.token_state import TokenState
    from p11tpm.store import Store
else:
    adding = Late("p11tpm.core.adding")
    profile = Late("p11tpm.core.profile")

_MOST_READ = 64  # objects that are kept after they were read
_PROFILE = attribute.ulong(CKO.PROFILE)


class Objects:
    """The objects of one token: those in the store, session objects, and the profile objects, which are in no store."""

    def __init__(self, token: TokenState) -> None:
        self._token = token
        self._store = token.store
        self._in_session = SessionObjects()
        self._profiles: profile.Profiles | None = None
        self._read_before: dict[int, Object] = {}
        self._read_at: object = None

    def _shelf(self, id_: int) -> Store | SessionObjects:
        return self._in_session if id_ < 0 else self._store

    # -- searches

    @property
    def profiles(self) -> profile.Profiles:
        """The profile objects."""
        with self._token.lock:
            if self._profiles is None:
                self._profiles = profile.Profiles(self._token.id)
            return self._profiles

    def find(self, template: Template) -> list[int]:
        """Find the visible objects that match a template, those of the store first."""
        hidden = {} if self._token.sees_private else {CKA.PRIVATE: TRUE}
        found = self._find(template, hidden)
        if CKA.VALUE in template and self._token.sees_private:
            found += self._find_encrypted(template)
        if template.get(CKA.CLASS) == _PROFILE:
            found += self.profiles.find(template)
        return found

    def _find(self, template: Template, hidden: Template) -> list[int]:
        return self._store.find(self._token.id, template, hidden) + self._in_session.find(template, hidden)

    def _find_encrypted(self, template: Template) -> list[int]:
        """Find private data objects by value: they are stored encrypted, so the store cannot compare."""
        private_data = {CKA.CLASS: attribute.ulong(CKO.DATA), CKA.PRIVATE: TRUE}
        wanted = {**template, **private_data}
        value = wanted.pop(CKA.VALUE)
        if not template.items() <= {**wanted, CKA.VALUE: value}.items():
            return []  # the template wants another class, or public objects
        return [id_ for id_ in self._find(wanted, {}) if self._has_value(id_, value)]

    def _has_value(self, id_: int, value: bytes) -> bool:
        """Return whether an object has this value; False if it was destroyed or hidden meanwhile."""
        try:
            return self.get(id_).get(CKA.VALUE) == value
        except Error as error:
            if error.rv in {CKR.OBJECT_HANDLE_INVALID, CKR.USER_NOT_LOGGED_IN}:
                return False
            raise

    def private_among(self, ids: set[int]) -> set[int]:
        """Return those of these objects that are private, visible or not."""
        passing = ids.intersection(self._in_session.find({CKA.PRIVATE: TRUE}, {}))
        return passing | self._store.having([id_ for id_ in ids if id_ > 0], CKA.PRIVATE, TRUE)

    # -- reading

    def get(self, id_: int) -> Object:
        """Return an object that the host may see; CKR_OBJECT_HANDLE_INVALID if it is gone or hidden.

        With a login, a private object must be as this token wrote it, or it is CKR_DEVICE_ERROR. Objects that were read
        are kept for as long as nobody writes to the store and the login stays the same.
        """
        if id_ < 0:
            return self._read(id_)
        state = (self._store.version(), self._token.logged_in)
        if state != self._read_at or len(self._read_before) >= _MOST_READ:
            self._token.check_login()
            self._read_before, self._read_at = {}, state
        thing = self._read_before.get(id_)
        if thing is None:
            thing = self._read_before[id_] = self._read(id_)
        return thing

    def record(self, id_: int) -> Record:
        """Return the record of an object that the host may see, as it is stored and not verified."""
        record = self.profiles.record(id_) if id_ < LAST else self._shelf(id_).record(id_)
        if record is None:
            self._token.check_login()
        if record is None or (record.attributes.get(CKA.PRIVATE) == TRUE and not self._token.sees_private):
            raise Error(CKR.OBJECT_HANDLE_INVALID, "the object is gone, or it is private and nobody is logged in")
        if id_ > 0 and not attribute.is_whole(record.attributes):
            raise Error(CKR.DEVICE_ERROR, f"object {id_} is damaged: restore the store")
        return record

    def _read(self, id_: int) -> Object:
        record = self.record(id_)
        if self._token.sees_private and id_ > 0 and _is_ours(record):
            self._token.tpm.secret.verify(record)
        value = None
        if is_encrypted(record.attributes):
            value = self._token.tpm.secret.decrypt(record.uuid, record.attributes[CKA.VALUE])
        return Object(record, value, self._reveal)

    def _reveal(self, record: Record) -> bytes:
        """Return the value of a secret key: that of a session object is in memory as it is."""
        value = record.secret or b""
        return self._token.tpm.secret.decrypt(record.uuid, value) if record.id > 0 else value

    # -- adding

    def adding(self, session: int, *templates: Template) -> adding.Adding:
        """Return a context in which objects are made, to be written at its end; see `Adding`.

        `session`: the one with which session objects end. `templates`: the attributes of what will be made, which are
        checked before anything is.
        """
        return adding.Adding(self._token, self._in_session, session, templates)

    def add(self, attributes: Template, session: int, material: KeyMaterial | None = None) -> int:
        """Add one object and return its identifier."""
        with self.adding(session) as adding:
            record = adding.add(attributes, material)
        return record.id

    # -- changes and ends

    def change(self, id_: int, changes: Template) -> None:
        """Change attributes of an object (C_SetAttributeValue)."""
        with self._token.lock:
            while not self._change(id_, changes):
                pass  # another process changed the object meanwhile: once more, on what it made of it

    def _change(self, id_: int, changes: Template) -> bool:
        """Change attributes; False if the object is no longer as it was read."""
        thing = self._read(id_)
        record = thing.record
        self._token.check_login()
        thing.check_stays(changes)
        attribute.check_change(record.attributes, changes, by_so=self._token.logged_in == CKU.SO)
        self._token.require_writer(record.attributes)
        if CKA.VALUE in changes and is_encrypted(record.attributes):
            changes = {**changes, CKA.VALUE: self._token.tpm.secret.encrypt(record.uuid, changes[CKA.VALUE])}
        changed = Record(
            record.token,
            record.uuid,
            {**record.attributes, **changes},
            record.tpm_public,
            record.tpm_private,
            secret=record.secret,
        )
        mac = self._token.tpm.secret.mac(changed) if self._token.sees_private else None
        return self._shelf(id_).update(record, changes, mac)

    def destroy(self, *ids: int) -> None:
        """Delete objects, all or none, and what the TPM holds of them (C_DestroyObject).

        CKR_ACTION_PROHIBITED for a resident key if the TPM's owner has to agree.
        """
        with self._token.lock:
            self._token.check_login()
            records = [self.record(id_) for id_ in ids]
            for record in records:
                if record.attributes[CKA.DESTROYABLE] == FALSE:
                    raise Error(CKR.ACTION_PROHIBITED, "the object may not be destroyed")
                self._token.require_writer(record.attributes)
            if any(record.resident for record in records):
                self._token.tpm.evict(records)
            kept = [record for record in records if record.id > 0]
            deleted = self._store.delete(kept) if kept else 0
            if not deleted + self._in_session.delete([record for record in records if record.id < 0]):
                raise Error(CKR.OBJECT_HANDLE_INVALID, "the object was deleted meanwhile")
            for record in records:
                self._token.unload(record.uuid)

    def end_sessions(self, sessions: set[int]) -> None:
        """Forget the session objects of sessions (clause 4.4)."""
        self._in_session.forget(sessions)

    def end_login(self) -> None:
        """Forget private session objects, and what was read with its values (clause 5.6.9)."""
        self._forget_read()
        self._in_session.forget_private({CKA.PRIVATE: TRUE})

    def close(self) -> None:
        """Forget all session objects, and what was read with its values."""
        self._forget_read()
        self._in_session.forget()

    def abandon(self) -> None:
        """Forget the same in a forked child, where another thread may have had the lock of the session objects."""
        self._forget_read()
        self._in_session = SessionObjects()

    def _forget_read(self) -> None:
        self._read_before, self._read_at = {}, None


def _is_ours(record: Record) -> bool:
    """Return whether only the token can have written a record, whose authentication code must be right then."""
    private = record.attributes.get(CKA.PRIVATE) == TRUE
    return private or record.mac is not None or record.tpm_private is not None or record.secret is not None
