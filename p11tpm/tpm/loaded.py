"""What this process has in the TPM now: one session, at most LOADED_KEYS keys, the SRK if it is not persistent.

Keys with a policy have a session more.
"""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.error import TPM, Error, TpmError
from p11tpm.host.imports import Late
from p11tpm.tpm import command, template
from p11tpm.tpm.codec import Reader, name_of, sized, u16, u32
from p11tpm.tpm.hmac_session import HmacSession, Opening, TamperedError
from p11tpm.tpm.salt import make_salt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable

    from p11tpm.tpm import password
    from p11tpm.tpm.codec import Blob, Key, Srk
    from p11tpm.tpm.wire import Handle, Session, Wire
else:
    password = Late("p11tpm.tpm.password")

# A TPM has three slots, which other programs need too. The kernel's resource manager saves and reloads every loaded
# object around each command, about 30 ms for each of them on a TPM behind a slow bus.
LOADED_KEYS = 1

OWNER = 0x40000001  # TPM_RH_OWNER
_REFERENCES = range(TPM.REFERENCE_H0, TPM.REFERENCE_LAST + 1)


class Loaded:
    """The session and the objects of one connection, made when they are asked for and forgotten with the connection."""

    __slots__ = ("_keys", "_lasting", "_primary", "_session", "_trusted", "_wire", "srk")

    def __init__(self, wire: Wire, *, trusted: bool = False) -> None:
        """Begin with nothing; `trusted`: nobody can listen on the way to the TPM."""
        self._wire = wire
        self._trusted = trusted
        self._keys: dict[Hashable, Handle] = {}  # least recently used first
        self._primary = 0  # the handle of the storage root key, if that is not persistent
        self._session: HmacSession | None = None
        self._lasting: HmacSession | None = None  # a policy session
        self.srk: Srk | None = None  # what it is below: see `Tpm.bind`

    @property
    def anything(self) -> bool:
        """Whether there is anything; it may be another program's by now if the TPM was reset."""
        return bool(self._session or self._lasting or self._keys or self._primary)

    def forget(self) -> None:
        """Forget everything; the TPM lost it, or the end of the connection flushes it."""
        self._keys.clear()
        self._primary = 0
        for session in (self._session, self._lasting):
            if session:
                session.wipe()
        self._session = self._lasting = None

    # -- sessions

    def session(self, *, salted: bool = True) -> Session:
        """Return what authorises commands: no session at all where nobody can listen."""
        if not self._trusted:
            return self.hmac_session(salted=salted)
        return password.PasswordSession()

    def hmac_session(self, *, salted: bool = True) -> HmacSession:
        """Return the session, salted with the SRK or, if that is not needed, the one that is there."""
        session = self._session
        if session and (session.salted or not salted):
            return session
        if session:
            self._drop_session(session)
        self._session = self._start(salted=salted)
        return self._session

    def policy_session(self) -> HmacSession:
        """Start a salted policy session, which the caller has to use up or to flush."""
        return self._start(salted=True, policy=True)

    def lasting_session(self, *, salted: bool) -> HmacSession:
        """Return the policy session of keys, with a salt or, if that is not needed, the one that is there."""
        session = self._lasting
        if session and (session.salted or not salted):
            return session
        self.drop_lasting()
        self._lasting = self._start(salted=salted, policy=True, lasting=True)
        return self._lasting

    def drop_lasting(self) -> None:
        """Flush the policy session of keys, if there is one: what it was shown does not count any more."""
        session, self._lasting = self._lasting, None
        if session:
            session.wipe()
            self._flush(session.handle)

    def _start(self, *, salted: bool, policy: bool = False, lasting: bool = False) -> HmacSession:
        salt = (self.parent()[0], *make_salt(self.root.public)) if salted else ()
        opening = Opening(*salt, policy=policy, lasting=lasting)
        name = command.START_AUTH_SESSION
        handle, answer = self._wire.plain(name, opening.handles(), opening.parameters())
        try:
            reader = Reader(answer)
            nonce = reader.buffer()
            reader.end()
        except ValueError:
            raise TamperedError(name.name) from None
        return HmacSession(handle, opening, nonce)

    def _drop_session(self, session: HmacSession) -> None:
        self._session = None
        session.wipe()
        self._flush(session.handle)

    # -- the storage root key

    @property
    def root(self) -> Srk:
        """The storage root key; CKR_GENERAL_ERROR if there is none yet."""
        if self.srk is None:
            raise Error(CKR.GENERAL_ERROR, "no storage root key of the TPM was named before it was used")
        return self.srk

    def parent(self) -> Handle:
        """Return the SRK's handle and Name; a primary key is made anew if it is not persistent.

        TOKEN_NOT_RECOGNIZED if what the TPM makes is not the key that the token was created under.
        """
        srk = self.root
        if srk.handle:
            return srk.handle, srk.name
        if not self._primary:
            self.make_room(0)
            handle, public = create_primary(self._wire)
            if name_of(public) != srk.name:
                self._flush(handle)
                raise _foreign()
            self._primary = handle
        return self._primary, srk.name

    def check(self) -> None:
        """Raise TOKEN_NOT_RECOGNIZED if this TPM's SRK is another one than the token's."""
        srk = self.root
        if not srk.handle:
            return
        try:
            _, answer = self._wire.plain(command.READ_PUBLIC, u32(srk.handle))
        except TpmError as error:
            if error.code == TPM.HANDLE_1:
                raise _foreign() from None
            raise
        if name_of(Reader(answer).buffer()) != srk.name:
            raise _foreign()

    # -- keys

    def key(self, key: Key) -> Handle:
        """Load a key if it is not loaded, and return its handle and Name."""
        loaded = self._keys.pop(key.id, None)
        if loaded is None or loaded[1] != name_of(key.public):
            if loaded:
                self._flush(loaded[0])
            self.make_room()
            loaded = self.load(key, salted=False)
        self._keys[key.id] = loaded
        return loaded

    def load(self, blob: Blob, *, salted: bool) -> Handle:
        """Load an object, which the caller has to flush; there must be room."""
        return self.load_in(self.session(salted=salted), blob)

    def load_in(self, session: Session, blob: Blob, proven: HmacSession | None = None) -> Handle:
        """Load an object in a session; TamperedError if the TPM's side of it, or of `proven`, is not ours."""
        parent = self.parent()
        parameters = sized(blob.private) + sized(blob.public)
        handle, answer = self._wire.authorised(command.LOAD, session, (parent,), b"", parameters, proven)
        name = Reader(answer).buffer()
        if name != name_of(blob.public):
            raise TamperedError(command.LOAD.name)
        return handle, name

    def make_room(self, keep: int = LOADED_KEYS - 1) -> None:
        """Flush the keys that were not used for the longest time, but `keep` of them."""
        while len(self._keys) > keep:
            handle, _ = self._keys.pop(next(iter(self._keys)))
            self._flush(handle)

    def drop(self, id_: Hashable) -> None:
        """Flush a key if it is loaded."""
        loaded = self._keys.pop(id_, None)
        if loaded:
            self._flush(loaded[0])

    def flush(self, handle: int) -> None:
        """Flush an object that `load` gave."""
        self._flush(handle)

    def _flush(self, handle: int) -> None:
        """Flush a handle; it is all the same if it is gone already."""
        try:
            self._wire.plain(command.FLUSH_CONTEXT, parameters=u32(handle))
        except TpmError as error:
            if error.code not in _REFERENCES and error.code & 0xBF not in {0x84, 0x8B}:  # no such value or handle
                raise


def _foreign() -> Error:
    return Error(CKR.TOKEN_NOT_RECOGNIZED, "the token belongs to another TPM, or the TPM was cleared")


def create_primary(wire: Wire) -> tuple[int, bytes]:
    """Make the storage root key from the TCG's template, with an empty authorisation value: its handle and TPMT_PUBLIC.

    TpmError 0x9A2 if the owner hierarchy has an authorisation value.
    """
    sensitive, outside, pcrs = sized(u16(0) + u16(0)), u16(0), u32(0)
    parameters = sensitive + sized(template.srk()) + outside + pcrs
    handle, answer = wire.with_empty_password(command.CREATE_PRIMARY, u32(OWNER), parameters)
    return handle, Reader(answer).buffer()
