"""Sessions and logins (clause 5.6)."""

from __future__ import annotations

from p11tpm.ck import CKF, CKR, CKU
from p11tpm.entry.attach import entry
from p11tpm.entry.c_memory import NULL, read_bytes, required, zeroed
from p11tpm.entry.run import module
from p11tpm.error import Error
from p11tpm.host.config import PIN_LONGEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Ptr = Any


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
def C_SessionCancel(session: int, flags: int) -> None:
    """End operations of a session."""
    module().session(session).cancel_these(flags)


@entry
def C_GetOperationState(session: int, _state: Ptr, length: Ptr) -> None:
    """Refuse to save an operation: the state of a hash stays in the library that makes it."""
    current = module().session(session)
    required(length)
    if not current.calculates:
        raise Error(CKR.OPERATION_NOT_INITIALIZED, "no operation is active in the session")
    raise Error(CKR.STATE_UNSAVEABLE, "operations of this token cannot be saved")


@entry
def C_SetOperationState(session: int, state: Ptr, _length: int, _encryption_key: int, _signing_key: int) -> None:
    """Refuse a saved operation: none comes from here."""
    module().session(session)
    required(state)
    raise Error(CKR.SAVED_STATE_INVALID, "operations of this token cannot be saved")


@entry
def C_Login(session: int, user: int, pin: Ptr, pin_length: int) -> None:
    """Log in for all sessions of the process."""
    _login(session, user, pin, pin_length)


@entry
def C_LoginUser(session: int, user: int, pin: Ptr, pin_length: int, name: Ptr, name_length: int) -> None:
    """Log in as a user with a name: the two users of a token have none."""
    if read_bytes(name, name_length, PIN_LONGEST):
        module().session(session)
        raise Error(CKR.ARGUMENTS_BAD, "the users of this token have no names")
    _login(session, user, pin, pin_length)


def _login(session: int, user: int, pin: Ptr, pin_length: int) -> None:
    run = module()
    current = run.session(session)
    if user not in {CKU.SO, CKU.USER, CKU.CONTEXT_SPECIFIC}:
        raise Error(CKR.USER_TYPE_INVALID, f"there is no user type {user}")
    if pin == NULL and not pin_length:
        given = current.token.pin_of_file(user)
    else:
        required(pin)
        given = read_bytes(pin, pin_length, PIN_LONGEST, CKR.PIN_INCORRECT)
    if user == CKU.CONTEXT_SPECIFIC:
        run.authenticate(current, given)
    else:
        run.login(current, user, given)


@entry
def C_Logout(session: int) -> None:
    """Log out for all sessions of the process."""
    run = module()
    run.logout(run.session(session))
