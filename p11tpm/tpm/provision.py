"""The objects that make a token, and the changes of their authorisation values: what happens seldom.

authorisation values are 32 bytes that the token derives from PINs; see `template` for the policies.
"""

from __future__ import annotations

from p11tpm.algorithm import CURVES
from p11tpm.ck import CKR
from p11tpm.error import TPM, Error, TpmError
from p11tpm.tpm import command, policy, salt, symmetric, template
from p11tpm.tpm.codec import HASHES, Blob, Reader, Srk, sized, u16, u32
from p11tpm.tpm.loaded import OWNER, create_primary
from p11tpm.tpm.password import PasswordSession
from p11tpm.tpm.policy_session import PolicySession
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


def create_so(tpm: Tpm, auth: bytes) -> Blob:
    """Make the object that knows the SO's PIN."""
    return tpm.create(template.so(), auth, tpm.random(32))


def create_user(
    tpm: Tpm, branches: tuple[bytes, ...], auth: bytes, secret: bytes, *, no_pin: bool = False, bound: bool = False
) -> Blob:
    """Make the object that seals a token's secret; see `policy.branches` and `template.user`."""
    return tpm.create(template.user(policy.any_of(*branches), no_pin=no_pin, bound=bound), auth, secret)


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
def change_user_auth(tpm: Tpm, user: Blob, branches: tuple[bytes, ...], old_auth: bytes, new_auth: bytes) -> Blob:
    """Change the user's authorisation value by the old one. TpmError 0x98E: the old one is wrong.

    `branches` are those of the user's policy: see `policy.branches`.

    Load comes first and in the policy session too: its response proves that session's key and nonces, without which a
    fault on the bus would look like a wrong PIN to the TPM. Later it would undo the policy, as every use does.
    """
    tpm.loaded.make_room(0)
    with PolicySession(tpm) as session:
        handle = tpm.loaded.load_in(PasswordSession(), user, session)
        try:
            tpm.wire.plain(command.POLICY_AUTH_VALUE, u32(session.handle))
            _choose_branch(tpm, session, branches)
            return _change(tpm, session, handle, user, old_auth, new_auth)
        finally:
            tpm.let_go(handle[0])


@repeated
def reset_user_auth(
    tpm: Tpm, user: Blob, so: Blob, branches: tuple[bytes, ...], so_auth: bytes, new_auth: bytes
) -> Blob:
    """Set the user's authorisation value without knowing the old one, by the SO's. TpmError 0x98E: that is wrong.

    A policy needs a session, so this one and `change_user_auth` are the same on a bus that is trusted.
    """
    tpm.loaded.make_room(0)
    with PolicySession(tpm) as session:
        cipher = tpm.loaded.hmac_session()
        _prove_so(tpm, session, so, so_auth)
        _choose_branch(tpm, session, branches)
        handle = tpm.loaded.load_in(PasswordSession(), user)
        try:
            return _change(tpm, session, handle, user, b"", new_auth, cipher)
        finally:
            tpm.let_go(handle[0])


def _prove_so(tpm: Tpm, session: HmacSession, so: Blob, auth: bytes) -> None:
    """PolicySecret: the SO's authorisation value goes into a policy session (Part 3, clause 23.4)."""
    parameters = u16(0) + u16(0) + u16(0) + u32(0)  # nonceTPM, cpHashA, policyRef, expiration: no limits
    handle = tpm.loaded.load(so, salted=True)
    target = (session.handle, u32(session.handle))
    try:
        tpm.wire.authorised(command.POLICY_SECRET, tpm.loaded.session(), (handle, target), auth, parameters)
    finally:
        tpm.let_go(handle[0])


def _choose_branch(tpm: Tpm, session: HmacSession, branches: tuple[bytes, ...]) -> None:
    """Finish either branch of the user's policy that changes the PIN."""
    handle = u32(session.handle)
    tpm.wire.plain(command.POLICY_COMMAND_CODE, handle, u32(command.OBJECT_CHANGE_AUTH.code))
    tpm.wire.plain(command.POLICY_OR, handle, policy.or_parameters(branches))


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
