"""The functions of PKCS#11, one for each C_...: read pointers, call the core, write results.

A function here takes what its C namesake takes and gives nothing back: it returns for CKR_OK and raises for anything
else. `entry` attaches it to its C stub and is the only place that turns an exception into a return value. The stub
counts a result only if it carries FINISHED, so that a broken interpreter can never look like CKR_OK.

Clauses: PKCS#11 Base Specification 3.0, clause 5.
"""

from __future__ import annotations

import os

from _p11tpm import ffi, lib

from p11tpm import log
from p11tpm.ck import CKF, CKR, CKU, EFFECTIVELY_INFINITE, UNAVAILABLE, name
from p11tpm.error import Error, LengthOnly, rv_of
from p11tpm.marshal import (
    NULL,
    read_bytes,
    read_mechanism,
    read_template,
    required,
    write_bytes,
    write_handles,
    write_list,
    write_template,
    write_text,
    zeroed,
)
from p11tpm.mechanism import MECHANISMS
from p11tpm.module import Module
from p11tpm.operation import Find, Sign
from p11tpm.pin import LONGEST, check_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from p11tpm.mechanism import Mechanism
    from p11tpm.session import Session
    from p11tpm.token import Token

    Ptr = Any

MANUFACTURER = "p11tpm"
DESCRIPTION = "PKCS#11 on a TPM 2.0"
CRYPTOKI_VERSION = (3, 0)
LIBRARY_VERSION = (0, 1)
MOST_RANDOM = 1 << 20  # bytes in one call; a TPM gives some 30 a command

# What is worth a line in the log by default: faults of the machine, not mistakes of the caller.
FAULTS = frozenset(
    {
        CKR.HOST_MEMORY,
        CKR.GENERAL_ERROR,
        CKR.FUNCTION_FAILED,
        CKR.DEVICE_ERROR,
        CKR.DEVICE_MEMORY,
        CKR.DEVICE_REMOVED,
        CKR.TOKEN_NOT_RECOGNIZED,
    },
)

_run: Module | None = None
_attached: set[str] = set()


def module() -> Module:
    """Give the run of the library; CKR_CRYPTOKI_NOT_INITIALIZED outside of one."""
    if _run is None:
        raise Error(CKR.CRYPTOKI_NOT_INITIALIZED, "C_Initialize was not called")
    return _run


def _failed(function: str, exception: BaseException) -> int:
    """Log why a function failed and give its return value: never CKR_OK."""
    rv = rv_of(exception)
    if isinstance(exception, Error):
        (log.error if rv in FAULTS else log.debug)(f"{function}: {name(CKR, rv)}: {exception.why}")
    else:
        import traceback

        # The frames alone: the text of a foreign exception may hold data.
        frames = "".join(traceback.format_tb(exception.__traceback__))
        log.error(f"{function}: {name(CKR, rv)}: {type(exception).__name__}\n{frames}")
    return rv


def _attach(function: str, call: Callable[..., int]) -> None:
    ffi.def_extern(name=f"py_{function}", error=0)(call)
    _attached.add(function)


def entry(function: Callable[..., None]) -> Callable[..., None]:
    """Attach a function to its C stub and map its exceptions to return values."""
    finished = int(lib.FINISHED)

    def call(*args: Any) -> int:
        try:
            function(*args)
        except LengthOnly:
            return finished | CKR.OK
        except BaseException as exception:  # noqa: BLE001 - nothing may pass into the host
            return finished | _failed(function.__name__, exception)
        return finished | CKR.OK

    _attach(function.__name__, call)
    return function


# -- general purpose (clause 5.4)


@entry
def C_Initialize(arguments: Ptr) -> None:
    """Begin a run. Locks are the system's own, which every legal combination of arguments allows."""
    global _run  # noqa: PLW0603 - the standard has one run a process
    if _run is not None:
        raise Error(CKR.CRYPTOKI_ALREADY_INITIALIZED, "C_Initialize was called before")
    if arguments != NULL:
        given = ffi.cast("CK_C_INITIALIZE_ARGS *", arguments)
        mutex = (given.CreateMutex, given.DestroyMutex, given.LockMutex, given.UnlockMutex)
        if len({function == NULL for function in mutex}) > 1:
            raise Error(CKR.ARGUMENTS_BAD, "some of the four mutex functions are NULL and some are not")
    run = Module()
    log.configure(run.config)
    _run = run


@entry
def C_Finalize(reserved: Ptr) -> None:
    """End the run."""
    global _run  # noqa: PLW0603
    if reserved != NULL:
        raise Error(CKR.ARGUMENTS_BAD, "the argument is reserved and must be NULL")
    run = module()
    _run = None
    run.close()


@entry
def C_GetInfo(info: Ptr) -> None:
    """Describe the library."""
    module()
    zeroed(info)
    info.cryptokiVersion.major, info.cryptokiVersion.minor = CRYPTOKI_VERSION
    info.libraryVersion.major, info.libraryVersion.minor = LIBRARY_VERSION
    write_text(info.manufacturerID, MANUFACTURER)
    write_text(info.libraryDescription, DESCRIPTION)


# -- slots and tokens (clause 5.5)


@entry
def C_GetSlotList(_present: int, slots: Ptr, count: Ptr) -> None:
    """List the slots; each one has a token, initialised or not."""
    run = module()
    required(count)
    write_list(slots, count, run.slots())


@entry
def C_GetSlotInfo(slot: int, info: Ptr) -> None:
    """Describe a slot."""
    run = module()
    required(info)
    token = run.slot(slot)
    zeroed(info)
    info.flags = CKF.TOKEN_PRESENT | CKF.HW_SLOT
    write_text(info.slotDescription, f"TPM 2.0: {token.label}" if token else "TPM 2.0")
    write_text(info.manufacturerID, MANUFACTURER)


@entry
def C_GetTokenInfo(slot: int, info: Ptr) -> None:
    """Describe a token; the TPM is asked for its lockout state only after a wrong PIN."""
    run = module()
    required(info)
    token = run.slot(slot)
    flags = token.flags() if token else CKF.RNG | CKF.LOGIN_REQUIRED
    manufacturer, model, _firmware = token.row.tpm.split("|") if token else (MANUFACTURER, "TPM 2.0", "")
    zeroed(info)
    info.flags = flags
    write_text(info.label, token.label if token else "")
    write_text(info.manufacturerID, manufacturer)
    write_text(info.model, model)
    write_text(info.serialNumber, token.row.serial if token else "")
    write_text(info.utcTime, "")
    info.ulMaxPinLen, info.ulMinPinLen = LONGEST, run.config.pin_min
    info.ulMaxSessionCount = info.ulMaxRwSessionCount = EFFECTIVELY_INFINITE
    sessions = run.sessions_of(slot)
    info.ulSessionCount = len(sessions)
    info.ulRwSessionCount = sum(session.read_write for session in sessions)
    info.ulTotalPublicMemory = info.ulFreePublicMemory = UNAVAILABLE
    info.ulTotalPrivateMemory = info.ulFreePrivateMemory = UNAVAILABLE


def _mechanisms(token: Token) -> dict[int, tuple[Mechanism, list[int]]]:
    """Give the mechanisms that the token's TPM has, with their key sizes."""
    sizes = {type_: (row, row.sizes(token.capabilities)) for type_, row in MECHANISMS.items()}
    return {type_: entry for type_, entry in sizes.items() if entry[1]}


@entry
def C_GetMechanismList(slot: int, mechanisms: Ptr, count: Ptr) -> None:
    """List the mechanisms, as the TPM said when the token was made: no command."""
    run = module()
    required(count)
    write_list(mechanisms, count, list(_mechanisms(run.token(slot))))


@entry
def C_GetMechanismInfo(slot: int, type_: int, info: Ptr) -> None:
    """Describe a mechanism."""
    run = module()
    required(info)
    found = _mechanisms(run.token(slot)).get(type_)
    if found is None:
        raise Error(CKR.MECHANISM_INVALID, f"the token does not have mechanism {type_:#x}")
    row, sizes = found
    zeroed(info)
    info.ulMinKeySize, info.ulMaxKeySize, info.flags = min(sizes), max(sizes), row.flags


@entry
def C_InitToken(slot: int, pin: Ptr, pin_length: int, label: Ptr) -> None:
    """Initialise a token; `label` is 32 bytes, padded with blanks."""
    run = module()
    run.slot(slot)
    so_pin = _read_pin(pin, pin_length)
    text = read_bytes(label, 32).rstrip(b" \0") if label != NULL else b""
    try:
        run.init_token(slot, text.decode(), so_pin)
    except UnicodeDecodeError:
        raise Error(CKR.ARGUMENTS_BAD, "the label is not UTF-8") from None


def _read_pin(pin: Ptr, length: int) -> bytes:
    """Read a PIN; there is no protected authentication path, so NULL is CKR_ARGUMENTS_BAD."""
    required(pin)
    return read_bytes(pin, length, LONGEST, CKR.PIN_LEN_RANGE)


@entry
def C_InitPIN(session: int, pin: Ptr, pin_length: int) -> None:
    """Set the user's PIN, by the SO."""
    token = module().session(session).token
    if token.logged_in != CKU.SO:
        raise Error(CKR.USER_NOT_LOGGED_IN, "the SO is not logged in")
    token.init_pin(_read_pin(pin, pin_length))


@entry
def C_SetPIN(session: int, old: Ptr, old_length: int, new: Ptr, new_length: int) -> None:
    """Change the PIN of whoever is logged in, the user's if nobody is."""
    run = module()
    current = run.session(session)
    if not current.read_write:
        raise Error(CKR.SESSION_READ_ONLY, "a PIN is changed in a read-write session")
    new_pin = _read_pin(new, new_length)
    check_new(new_pin, run.config.pin_min)
    current.token.set_pin(_read_pin(old, old_length), new_pin)


# -- sessions (clause 5.6)


@entry
def C_OpenSession(slot: int, flags: int, _application: Ptr, _notify: Ptr, handle: Ptr) -> None:
    """Open a session."""
    run = module()
    required(handle)
    if not flags & CKF.SERIAL_SESSION:
        raise Error(CKR.SESSION_PARALLEL_NOT_SUPPORTED, "CKF_SERIAL_SESSION must be set")
    handle[0] = run.open_session(slot, read_write=bool(flags & CKF.RW_SESSION))


@entry
def C_CloseSession(session: int) -> None:
    """Close a session."""
    module().close_session(session)


@entry
def C_CloseAllSessions(slot: int) -> None:
    """Close all sessions with a token."""
    module().close_all(slot)


@entry
def C_GetSessionInfo(session: int, info: Ptr) -> None:
    """Describe a session."""
    current = module().session(session)
    zeroed(info)
    info.slotID = current.token.id
    info.state = current.state
    info.flags = CKF.SERIAL_SESSION | (CKF.RW_SESSION if current.read_write else 0)


@entry
def C_Login(session: int, user: int, pin: Ptr, pin_length: int) -> None:
    """Log in for all sessions of the process."""
    run = module()
    current = run.session(session)
    if user == CKU.CONTEXT_SPECIFIC:
        raise Error(CKR.OPERATION_NOT_INITIALIZED, "no operation waits for its own login")
    if user not in {CKU.SO, CKU.USER}:
        raise Error(CKR.USER_TYPE_INVALID, f"there is no user type {user}")
    required(pin)
    run.login(current, user, read_bytes(pin, pin_length, LONGEST, CKR.PIN_INCORRECT))


@entry
def C_Logout(session: int) -> None:
    """Log out for all sessions of the process."""
    run = module()
    run.logout(run.session(session))


# -- objects (clause 5.7)


@entry
def C_CreateObject(session: int, template: Ptr, count: int, handle: Ptr) -> None:
    """Make a data object, a certificate or a public key."""
    run = module()
    current = run.session(session)
    required(handle)
    wanted = read_template(template, count)
    current.require_write(wanted)
    handle[0] = run.handle_of(current.token, current.token.create_object(wanted, session))


@entry
def C_DestroyObject(session: int, handle: int) -> None:
    """Delete an object."""
    run = module()
    current = run.session(session)
    id_ = run.id_of(current.token, handle)
    current.require_write(current.token.record(id_).attributes)
    current.token.destroy(id_)


@entry
def C_GetAttributeValue(session: int, handle: int, template: Ptr, count: int) -> None:
    """Read attributes of an object."""
    run = module()
    write_template(template, count, run.object(run.session(session), handle))


@entry
def C_SetAttributeValue(session: int, handle: int, template: Ptr, count: int) -> None:
    """Change attributes of an object."""
    run = module()
    current = run.session(session)
    changes = read_template(template, count)
    current.require_write(run.object(current, handle).attributes)
    current.token.set_attributes(run.id_of(current.token, handle), changes)


@entry
def C_FindObjectsInit(session: int, template: Ptr, count: int) -> None:
    """Begin a search."""
    current = module().session(session)
    current.require_none(Find)
    current.begin(Find(current.token.find(read_template(template, count))))


@entry
def C_FindObjects(session: int, objects: Ptr, most: int, count: Ptr) -> None:
    """Give the next objects that were found."""
    run = module()
    current = run.session(session)
    with current.going_on(Find) as search:
        required(objects, count)
        write_handles(objects, count, (run.handle_of(current.token, id_) for id_ in search.take(most)))


@entry
def C_FindObjectsFinal(session: int) -> None:
    """End a search."""
    with module().session(session).using(Find):
        pass


# -- signatures (clause 5.13)


def _cancels(current: Session, kind: type, mechanism: Ptr) -> bool:
    """Say whether a NULL mechanism ended an active operation, which is what it is for (3.0, clause 5.13.1)."""
    return bool(mechanism == NULL and current.cancel(kind))


@entry
def C_SignInit(session: int, mechanism: Ptr, key: int) -> None:
    """Begin a signature."""
    run = module()
    current = run.session(session)
    if _cancels(current, Sign, mechanism):
        return
    current.require_none(Sign)
    type_, parameter = read_mechanism(mechanism)
    current.begin(Sign(current.token, run.key(current, key), type_, parameter))


@entry
def C_Sign(session: int, data: Ptr, data_length: int, out: Ptr, out_length: Ptr) -> None:
    """Sign in one part."""
    with module().session(session).using(Sign) as signing:
        write_bytes(out, out_length, signing.size, lambda: signing.sign(read_bytes(data, data_length)))


@entry
def C_SignUpdate(session: int, part: Ptr, part_length: int) -> None:
    """Take the next part of what is signed."""
    with module().session(session).going_on(Sign) as signing:
        signing.update(read_bytes(part, part_length))


@entry
def C_SignFinal(session: int, out: Ptr, out_length: Ptr) -> None:
    """Sign what was taken."""
    with module().session(session).using(Sign) as signing:
        write_bytes(out, out_length, signing.size, signing.finish)


# -- keys (clause 5.18)


@entry
def C_GenerateKeyPair(
    session: int,
    mechanism: Ptr,
    public: Ptr,
    public_count: int,
    private: Ptr,
    private_count: int,
    public_handle: Ptr,
    private_handle: Ptr,
) -> None:
    """Make a key pair in the TPM."""
    run = module()
    current = run.session(session)
    required(public_handle, private_handle)
    type_, parameter = read_mechanism(mechanism)
    if parameter:
        raise Error(CKR.MECHANISM_PARAM_INVALID, "the mechanism takes no parameter")
    templates = read_template(public, public_count), read_template(private, private_count)
    for template in templates:
        current.require_write(template)
    ids = current.token.generate_pair(type_, *templates, session)
    public_handle[0], private_handle[0] = (run.handle_of(current.token, id_) for id_ in ids)


# -- random numbers (clause 5.19)


@entry
def C_SeedRandom(session: int, _seed: Ptr, _length: int) -> None:
    """Refuse a seed: the TPM's generator takes its own."""
    module().session(session)
    raise Error(CKR.RANDOM_SEED_NOT_SUPPORTED, "the TPM seeds its own generator")


@entry
def C_GenerateRandom(session: int, out: Ptr, length: int) -> None:
    """Give random bytes of the TPM."""
    current = module().session(session)
    required(out)
    if length > MOST_RANDOM:
        raise Error(CKR.ARGUMENTS_BAD, f"at most {MOST_RANDOM} random bytes in one call")
    ffi.memmove(out, current.token.random(length), length)


# -- functions of the past (clause 5.20)


@entry
def C_GetFunctionStatus(session: int) -> None:
    """Answer that nothing runs in parallel."""
    module().session(session)
    raise Error(CKR.FUNCTION_NOT_PARALLEL, "no function runs in parallel")


@entry
def C_CancelFunction(session: int) -> None:
    """Answer that nothing runs in parallel."""
    module().session(session)
    raise Error(CKR.FUNCTION_NOT_PARALLEL, "no function runs in parallel")


# -- what is not built, and the end of the attachment


def _not_supported(*_args: object) -> int:
    return int(lib.FINISHED | CKR.FUNCTION_NOT_SUPPORTED)


@ffi.def_extern(error=0)  # type: ignore[untyped-decorator]
def py_attached() -> int:
    """Tell the C side how many functions have code; it starts nothing before all have."""
    return int(lib.FINISHED | len(_attached))


def _before_fork() -> None:
    if _run is not None:
        _run.pause()


def _after_fork_in_parent() -> None:
    if _run is not None:
        _run.resume()


def _after_fork_in_child() -> None:
    """Forget the run in a forked child, where the parent's connections must not be used."""
    global _run
    run, _run = _run, None
    if run is not None:
        run.abandon()


for _stub in dir(lib):
    if _stub.startswith("py_C_") and _stub[3:] not in _attached:
        _attach(_stub[3:], _not_supported)
os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
