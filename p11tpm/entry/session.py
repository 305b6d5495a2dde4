"""Sessions and logins (clause 5.6)."""

from __future__ import annotations

from p11tpm.ck import CKF, CKR, CKU
from p11tpm.config import PIN_LONGEST
from p11tpm.entry.attach import entry
from p11tpm.entry.run import module
from p11tpm.error import Error
from p11tpm.marshal import read_bytes, required, zeroed

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
def C_Login(session: int, user: int, pin: Ptr, pin_length: int) -> None:
    """Log in for all sessions of the process."""
    run = module()
    current = run.session(session)
    if user == CKU.CONTEXT_SPECIFIC:
        raise Error(CKR.OPERATION_NOT_INITIALIZED, "no operation waits for its own login")
    if user not in {CKU.SO, CKU.USER}:
        raise Error(CKR.USER_TYPE_INVALID, f"there is no user type {user}")
    required(pin)
    run.login(current, user, read_bytes(pin, pin_length, PIN_LONGEST, CKR.PIN_INCORRECT))


@entry
def C_Logout(session: int) -> None:
    """Log out for all sessions of the process."""
    run = module()
    run.logout(run.session(session))
