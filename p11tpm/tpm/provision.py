"""The objects that make a token, and the changes of their authorisation values: what happens seldom.

authorisation values are 32 bytes that the token derives from PINs; see `template` for the policies.
"""

from __future__ import annotations

from p11tpm.algorithm import CURVES
from p11tpm.ck import CKR
from p11tpm.error import TPM, Error, TpmError
from p11tpm.tpm import command, salt, symmetric, template
from p11tpm.tpm.codec import HASHES, Blob, Reader, Srk, sized, u16, u32
from p11tpm.tpm.loaded import OWNER, create_primary
from p11tpm.tpm.password import PasswordSession
from p11tpm.tpm.tpm import repeated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.tpm.hmac_session import HmacSession
    from p11tpm.tpm.tpm import Tpm
    from p11tpm.tpm.wire import Handle, Session

SRK_HANDLE = 0x81000001  # TCG TPM v2.0 Provisioning Guidance, clause 7.5.1
_SRK_HANDLES = range(SRK_HANDLE, SRK_HANDLE + 16)  # where we look for a place: those of storage keys of the owner

_CAP_ALGS, _CAP_COMMANDS, _CAP_TPM_PROPERTIES = 0, 2, 6  # TPM_CAP: Part 2, clause 6.12
_ALG_HMAC, _ALG_SYMCIPHER = 0x0005, 0x0025  # TPM_ALG_ID: Part 2, clause 6.3
_HMAC = (command.HMAC, command.HMAC_START, command.SEQUENCE_UPDATE, command.SEQUENCE_COMPLETE)
_PT_MANUFACTURER, _PT_VENDOR_STRING, _PT_FIRMWARE = 0x105, 0x106, 0x10B  # TPM_PT: Part 2, clause 6.13


class Provision:
    """What a TPM is and has: `tpm` is "manufacturer|model|firmware", `capabilities` words as "rsa2048 p256 sha256"."""

    __slots__ = ("capabilities", "srk", "tpm")

    def __init__(self, srk: Srk, tpm: str, capabilities: str) -> None:
        self.srk = srk
        self.tpm = tpm
        self.capabilities = capabilities


# -- the TPM


@repeated
def provision(tpm: Tpm) -> Provision:
    """Find or make the SRK, and ask the TPM what it is and what it can do.

    A SRK that the owner hierarchy does not let us make persistent is made anew whenever it is needed (handle 0). The
    TPM works below it from then on.
    """
    srk = _usual_srk(tpm) or _make_srk(tpm)
    salt.make_salt(srk.public)  # says now if sessions cannot be salted with it
    algorithms = _properties(tpm, _CAP_ALGS, 0, key_size=2)
    words = [word for word, parameters in _parameters().items() if _can(tpm, parameters)]
    words += [name for number, name in HASHES.items() if number in algorithms]
    if algorithms.keys() >= {_ALG_SYMCIPHER, *symmetric.MODES.values()} and _implements(tpm, command.ENCRYPT_DECRYPT_2):
        parms = {f"aes{bits}": template.aes(bits, made=True) for bits in (128, 192, 256)}
        words += [word for word, public in parms.items() if _can(tpm, public[:2] + public[10:-2])]
    if _ALG_HMAC in algorithms and _implements(tpm, *_HMAC):
        words.append("hmac")
    described = _describe(_properties(tpm, _CAP_TPM_PROPERTIES, 0x100))
    tpm.bind(srk)
    return Provision(srk, described, " ".join(words))


def _usual_srk(tpm: Tpm) -> Srk | None:
    """Return the storage root key that is where it usually is; None if what is there cannot be a token's."""
    public = _public_at(tpm, SRK_HANDLE)
    return Srk(SRK_HANDLE, public) if public and template.is_storage_key(public) else None


def _public_at(tpm: Tpm, handle: int) -> bytes | None:
    """Return the TPMT_PUBLIC of a persistent object; None if there is none."""
    try:
        _, answer = tpm.wire.plain(command.READ_PUBLIC, u32(handle))
    except TpmError as error:
        if error.code == TPM.HANDLE_1:
            return None
        raise
    return Reader(answer).buffer()


def _make_srk(tpm: Tpm) -> Srk:
    """Make the TCG's storage root key, and leave it where the TPM has it already or at the next free handle."""
    tpm.loaded.make_room(0)
    try:
        handle, public = create_primary(tpm.wire)
    except TpmError as error:
        if error.code == TPM.BAD_AUTH:
            why = (
                f"the TPM's owner has an authorisation value: let the owner make a storage root key at {SRK_HANDLE:#x}"
            )
            raise Error(CKR.DEVICE_ERROR, why) from None
        raise
    try:
        for place in _SRK_HANDLES:
            there = _public_at(tpm, place)
            if there is None:
                tpm.wire.with_empty_password(command.EVICT_CONTROL, u32(OWNER) + u32(handle), u32(place))
            if there in {None, public}:
                return Srk(place, public)
    except TpmError:  # the owner has to agree, or the TPM is full
        return Srk(0, public)
    finally:
        tpm.let_go(handle)
    return Srk(0, public)


def _parameters() -> dict[str, bytes]:
    """Return the TPMT_PUBLIC_PARMS of all kinds of keys on offer: the public area without its policy and key."""
    publics = {f"rsa{bits}": template.rsa(bits)[:-2] for bits in (1024, 2048, 3072, 4096)}
    publics |= {curve: template.ec(curve)[:-4] for curve in CURVES}
    return {word: public[:2] + public[10:] for word, public in publics.items()}


def _can(tpm: Tpm, parameters: bytes) -> bool:
    try:
        tpm.wire.plain(command.TEST_PARMS, parameters=parameters)
    except TpmError as error:
        if error.code & 0x80:  # a format-one code: something about the parameters
            return False
        raise
    return True


def _implements(tpm: Tpm, *commands: command.Command) -> bool:
    """Ask whether a TPM has these commands, which many leave out (Part 3, clause 30.2)."""
    for one in commands:
        parameters = u32(_CAP_COMMANDS) + u32(one.code) + u32(1)
        reader = Reader(tpm.wire.plain(command.GET_CAPABILITY, parameters=parameters)[1])
        reader.take(5)
        if not reader.number(4) or reader.number(4) & 0xFFFF != one.code:  # TPMA_CC: Part 2, clause 8.9
            return False
    return True


def _properties(tpm: Tpm, capability: int, first: int, key_size: int = 4) -> dict[int, int]:
    """Ask for a list of numbers and their values (Part 3, clause 30.2)."""
    parameters = u32(capability) + u32(first) + u32(127)
    reader = Reader(tpm.wire.plain(command.GET_CAPABILITY, parameters=parameters)[1])
    reader.take(5)
    return {reader.number(key_size): reader.number(4) for _ in range(reader.number(4))}


def _describe(properties: dict[int, int]) -> str:
    """Return "manufacturer|model|firmware" of a TPM."""

    def text(*numbers: int) -> str:
        raw = b"".join(u32(properties.get(number, 0)) for number in numbers).decode("ascii", "replace")
        return "".join(letter for letter in raw if letter.isprintable() and letter not in "|\ufffd").strip()

    firmware = [properties.get(_PT_FIRMWARE + index, 0) for index in range(2)]
    version = ".".join(str(part) for number in firmware for part in (number >> 16, number & 0xFFFF))
    return f"{text(_PT_MANUFACTURER)}|{text(*range(_PT_VENDOR_STRING, _PT_VENDOR_STRING + 4))}|{version}"


# -- the token's objects


def create_token(
    tpm: Tpm, so_auth: bytes, user_auth: bytes, secret: bytes, *, no_pin: bool = False
) -> tuple[Blob, Blob]:
    """Make the object that knows the SO's PIN and the one that seals `secret` with the user's."""
    so = tpm.create(template.so(), so_auth, tpm.random(32))
    user = tpm.create(template.user(so.public, no_pin=no_pin), user_auth, secret)
    return so, user


@repeated
def change_auth(tpm: Tpm, blob: Blob, old_auth: bytes, new_auth: bytes) -> Blob:
    """Change an authorisation value without a policy: the SO's, or a key's. TpmError 0x98E: the SO's old one is wrong.

    The object is still there under the old one for whoever has its old blob.
    """
    tpm.loaded.make_room(0)
    handle = tpm.loaded.load(blob, salted=True)
    try:
        return _change(tpm, tpm.loaded.session(), handle, blob, old_auth, new_auth)
    finally:
        tpm.let_go(handle[0])


@repeated
def change_user_auth(tpm: Tpm, user: Blob, so_public: bytes, old_auth: bytes, new_auth: bytes) -> Blob:
    """Change the user's authorisation value by the old one. TpmError 0x98E: the old one is wrong.

    Load comes first and in the policy session too: its response proves that session's key and nonces, without which a
    fault on the bus would look like a wrong PIN to the TPM. Later it would undo the policy, as every use does.
    """
    tpm.loaded.make_room(0)
    with _Policy(tpm) as session:
        handle = tpm.loaded.load_in(PasswordSession(), user, session)
        try:
            tpm.wire.plain(command.POLICY_AUTH_VALUE, u32(session.handle))
            _choose_branch(tpm, session, so_public)
            return _change(tpm, session, handle, user, old_auth, new_auth)
        finally:
            tpm.let_go(handle[0])


@repeated
def reset_user_auth(tpm: Tpm, user: Blob, so: Blob, so_auth: bytes, new_auth: bytes) -> Blob:
    """Set the user's authorisation value without knowing the old one, by the SO's. TpmError 0x98E: that is wrong.

    A policy needs a session, so this one and `change_user_auth` are the same on a bus that is trusted.
    """
    tpm.loaded.make_room(0)
    with _Policy(tpm) as session:
        cipher = tpm.loaded.hmac_session()
        _prove_so(tpm, session, so, so_auth)
        _choose_branch(tpm, session, so.public)
        handle = tpm.loaded.load_in(PasswordSession(), user)
        try:
            return _change(tpm, session, handle, user, b"", new_auth, cipher)
        finally:
            tpm.let_go(handle[0])


class _Policy:
    """A context with a policy session, which a change of the user's authorisation value uses up."""

    __slots__ = ("_session", "_tpm")

    def __init__(self, tpm: Tpm) -> None:
        self._tpm = tpm

    def __enter__(self) -> HmacSession:
        self._session = self._tpm.loaded.policy_session()
        return self._session

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        try:
            if isinstance(error, Error):
                self._tpm.let_go(self._session.handle)
        finally:
            self._session.wipe()


def _prove_so(tpm: Tpm, session: HmacSession, so: Blob, auth: bytes) -> None:
    """PolicySecret: the SO's authorisation value goes into a policy session (Part 3, clause 23.4)."""
    parameters = u16(0) + u16(0) + u16(0) + u32(0)  # nonceTPM, cpHashA, policyRef, expiration: no limits
    handle = tpm.loaded.load(so, salted=True)
    policy = (session.handle, u32(session.handle))
    try:
        tpm.wire.authorised(command.POLICY_SECRET, tpm.loaded.session(), (handle, policy), auth, parameters)
    finally:
        tpm.let_go(handle[0])


def _choose_branch(tpm: Tpm, session: HmacSession, so_public: bytes) -> None:
    """Finish either branch of the user's policy."""
    policy, branches = u32(session.handle), template.policy_branches(so_public)
    tpm.wire.plain(command.POLICY_COMMAND_CODE, policy, u32(command.OBJECT_CHANGE_AUTH.code))
    tpm.wire.plain(command.POLICY_OR, policy, u32(len(branches)) + b"".join(map(sized, branches)))


def _change(
    tpm: Tpm,
    session: Session,
    handle: Handle,
    blob: Blob,
    old_auth: bytes,
    new_auth: bytes,
    cipher: HmacSession | None = None,
) -> Blob:
    handles = (handle, tpm.loaded.parent())
    what = command.OBJECT_RESET_AUTH if cipher else command.OBJECT_CHANGE_AUTH
    _, answer = tpm.wire.authorised(what, session, handles, old_auth, sized(new_auth), cipher)
    return Blob(blob.public, Reader(answer).buffer())
