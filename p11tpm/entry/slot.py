"""Slots and tokens (clause 5.5)."""

from __future__ import annotations

from p11tpm.ck import CKF, CKR, CKU, EFFECTIVELY_INFINITE, UNAVAILABLE
from p11tpm.entry.attach import entry
from p11tpm.entry.c_memory import NULL, read_bytes, required, write_list, write_text, zeroed
from p11tpm.entry.general import MANUFACTURER
from p11tpm.entry.run import module
from p11tpm.error import Error
from p11tpm.host.config import PIN_LONGEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Ptr = Any


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
    write_text(info.slotDescription, f"TPM 2.0: {token.seen.label}" if token else "TPM 2.0")
    write_text(info.manufacturerID, MANUFACTURER)


@entry
def C_GetTokenInfo(slot: int, info: Ptr) -> None:
    """Describe a token; the TPM is asked for its lockout state only after a wrong PIN."""
    run = module()
    required(info)
    token = run.slot(slot)
    flags = token.flags(token.seen) if token else CKF.RNG | CKF.LOGIN_REQUIRED
    manufacturer, _, rest = token.seen.tpm.partition("|") if token else (MANUFACTURER, "", "TPM 2.0")
    zeroed(info)
    info.flags = flags
    write_text(info.label, token.seen.label if token else "")
    write_text(info.manufacturerID, manufacturer)
    write_text(info.model, rest.partition("|")[0])
    write_text(info.serialNumber, token.seen.serial if token else "")
    write_text(info.utcTime, "")
    info.ulMaxPinLen, info.ulMinPinLen = PIN_LONGEST, run.config.pin_min
    info.ulMaxSessionCount = info.ulMaxRwSessionCount = EFFECTIVELY_INFINITE
    sessions = run.sessions_of(slot)
    info.ulSessionCount = len(sessions)
    info.ulRwSessionCount = sum(session.read_write for session in sessions)
    info.ulTotalPublicMemory = info.ulFreePublicMemory = UNAVAILABLE
    info.ulTotalPrivateMemory = info.ulFreePrivateMemory = UNAVAILABLE


@entry
def C_WaitForSlotEvent(flags: int, slot: Ptr, reserved: Ptr) -> None:
    """Wait for an event in a slot: a TPM is never inserted nor removed, so a wait ends with the run."""
    run = module()
    required(slot)
    if reserved != NULL:
        raise Error(CKR.ARGUMENTS_BAD, "the third argument is reserved and must be NULL")
    if flags & CKF.DONT_BLOCK:
        raise Error(CKR.NO_EVENT, "nothing happened in any slot")
    run.wait_for_end()
    raise Error(CKR.CRYPTOKI_NOT_INITIALIZED, "C_Finalize was called")


@entry
def C_GetMechanismList(slot: int, mechanisms: Ptr, count: Ptr) -> None:
    """List the mechanisms, as the TPM said when the token was made: no command."""
    run = module()
    required(count)
    write_list(mechanisms, count, list(run.token(slot).mechanisms))


@entry
def C_GetMechanismInfo(slot: int, type_: int, info: Ptr) -> None:
    """Describe a mechanism."""
    run = module()
    required(info)
    token = run.token(slot)
    found = token.mechanisms.get(type_)
    if found is None:
        raise Error(CKR.MECHANISM_INVALID, f"the token does not have mechanism {type_:#x}")
    row, sizes = found
    zeroed(info)
    info.ulMinKeySize, info.ulMaxKeySize = min(sizes), max(sizes)
    info.flags = row.flags(token.seen.capabilities.split())


@entry
def C_InitToken(slot: int, pin: Ptr, pin_length: int, label: Ptr) -> None:
    """Initialise a token; `label` is 32 bytes, padded with blanks, in any encoding."""
    run = module()
    run.slot(slot)
    required(label)
    so_pin = _read_pin(pin, pin_length)
    text = read_bytes(label, 32).rstrip(b"\0").rstrip(b" ")  # some programs pad with NUL; one inside is the label's own
    run.init_token(slot, text.decode(errors="surrogateescape"), so_pin)


def _read_pin(pin: Ptr, length: int) -> bytes:
    """Read a PIN; a protected authentication path is for logins only, so NULL is CKR_ARGUMENTS_BAD."""
    required(pin)
    return read_bytes(pin, length, PIN_LONGEST, CKR.PIN_LEN_RANGE)


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
    current.token.set_pin(_read_pin(old, old_length), new_pin)
