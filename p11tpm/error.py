"""One error type below the C boundary, and the tables that turn the outside world's errors into return values."""

from __future__ import annotations

from errno import EACCES, EDQUOT, EMFILE, ENFILE, ENOMEM, ENOSPC, EPERM, EROFS

from p11tpm.ck import CKR


class Error(Exception):
    """A call that cannot be done: the return value for the host and the reason for the log.

    The reason says what to do about it and never holds data, PINs, auth values or attribute values.
    """

    def __init__(self, rv: int, why: str) -> None:
        super().__init__(why)
        self.rv = rv
        self.why = why


class GoneError(Error):
    """The token that somebody logged in to is not there any more, and so the login ends."""

    def __init__(self, *, deleted: bool) -> None:
        if deleted:
            super().__init__(CKR.TOKEN_NOT_PRESENT, "the token was deleted")
        else:
            why = "another program initialised the token again, or replaced the store: log in to what is there now"
            super().__init__(CKR.DEVICE_REMOVED, why)


class answering:  # noqa: N801 - reads like a function: with answering({...})
    """A context in which an error that a function of PKCS#11 does not have gets the code that it has instead."""

    __slots__ = ("_codes",)

    def __init__(self, codes: dict[int, int]) -> None:
        self._codes = codes

    def __enter__(self) -> None:
        pass

    def __exit__(self, type_: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Error) and error.rv in self._codes:
            raise Error(self._codes[error.rv], error.why) from None


class LengthOnly(Exception):  # noqa: N818 - no error: the call did what it was asked for
    """The host asked how long a result will be and was told: nothing was done, and the operation goes on.

    PKCS#11 Base Specification 3.0, clause 5.2.
    """


def asks_length(error: BaseException) -> bool:
    """Return whether a call ended with the length of its result only, so that nothing was done (clause 5.2)."""
    return isinstance(error, LengthOnly) or getattr(error, "rv", None) == CKR.BUFFER_TOO_SMALL


class TpmError(Error):
    """A response code of the TPM that ended a command (TPM 2.0 Part 2, clause 6.6)."""

    def __init__(self, code: int, command: str) -> None:
        super().__init__(
            rv_of_tpm(code),
            f"TPM2_{command} answered {code:#05x}{_FULL + FLUSHED_BY[code] if code in FLUSHED_BY else ''}",
        )
        self.code = code
        self.command = command


class StateError(Error):
    """The machine is not in a state in which a token opens, or a key works; no PIN was tried."""

    guess = False

    def __init__(self, why: str) -> None:
        super().__init__(CKR.FUNCTION_FAILED, why)


class TPM:
    """Response codes that are told apart (TPM 2.0 Part 2, clause 6.6.3), with the entity's number where it counts."""

    VALUE = 0x084
    INITIALIZE = 0x100
    FAILURE = 0x101
    POLICY = 0x126
    PCR_CHANGED = 0x128
    HANDLE_1 = 0x18B
    VALUE_1 = 0x1C4
    INTEGRITY = 0x1DF
    VALUE_2 = 0x2C4
    SIGNATURE_2 = 0x2DB
    AUTH_UNAVAILABLE = 0x12F
    NV_SPACE = 0x14B
    NV_DEFINED = 0x14C
    AUTH_FAIL = 0x98E
    POLICY_FAIL = 0x99D
    BAD_AUTH = 0x9A2
    POLICY_CC = 0x9A4
    CONTEXT_GAP = 0x901
    OBJECT_MEMORY = 0x902
    SESSION_MEMORY = 0x903
    MEMORY = 0x904
    SESSION_HANDLES = 0x905
    YIELDED = 0x908
    TESTING = 0x90A
    REFERENCE_H0 = 0x910
    REFERENCE_S0 = 0x918
    REFERENCE_LAST = 0x91E
    NV_RATE = 0x920
    LOCKOUT = 0x921
    RETRY = 0x922
    NV_UNAVAILABLE = 0x923


# Answers of the TPM where the machine's state, or the time, is another than a policy asks for (Part 3, clause 23), and
# to a session that does not satisfy the policy of an object
POLICY_REFUSALS = frozenset({TPM.VALUE, TPM.POLICY, TPM.VALUE_1, TPM.POLICY_FAIL, TPM.POLICY_CC})

FLUSHED_BY = {  # options of tpm2_flushcontext for a TPM that is full
    TPM.CONTEXT_GAP: "-s",
    TPM.OBJECT_MEMORY: "-t",
    TPM.SESSION_MEMORY: "-l",
    TPM.MEMORY: "-t and -l",
    TPM.SESSION_HANDLES: "-l and -s",
}
_FULL = ": the TPM is full. End the programs that use it, or flush what killed ones have left: tpm2_flushcontext "

_TPM = {
    # 0x98E is CKR_PIN_INCORRECT and 0x921 CKR_PIN_LOCKED only where a PIN was tried; the token says so, not this table.
    TPM.AUTH_FAIL: CKR.DEVICE_ERROR,
    TPM.LOCKOUT: CKR.DEVICE_ERROR,
    TPM.BAD_AUTH: CKR.DEVICE_ERROR,
    TPM.INTEGRITY: CKR.DEVICE_ERROR,
    TPM.PCR_CHANGED: CKR.DEVICE_ERROR,
    TPM.AUTH_UNAVAILABLE: CKR.DEVICE_ERROR,
    TPM.NV_SPACE: CKR.DEVICE_MEMORY,
    TPM.HANDLE_1: CKR.TOKEN_NOT_RECOGNIZED,
    TPM.CONTEXT_GAP: CKR.DEVICE_MEMORY,
    TPM.OBJECT_MEMORY: CKR.DEVICE_MEMORY,
    TPM.SESSION_MEMORY: CKR.DEVICE_MEMORY,
    TPM.MEMORY: CKR.DEVICE_MEMORY,
    TPM.SESSION_HANDLES: CKR.DEVICE_MEMORY,
    TPM.YIELDED: CKR.DEVICE_ERROR,
    TPM.TESTING: CKR.DEVICE_ERROR,
    TPM.NV_RATE: CKR.DEVICE_ERROR,
    TPM.RETRY: CKR.DEVICE_ERROR,
    TPM.NV_UNAVAILABLE: CKR.DEVICE_ERROR,
    TPM.INITIALIZE: CKR.DEVICE_ERROR,
    TPM.FAILURE: CKR.DEVICE_ERROR,
    **dict.fromkeys(POLICY_REFUSALS, CKR.FUNCTION_FAILED),
    **dict.fromkeys(range(TPM.REFERENCE_H0, TPM.REFERENCE_LAST + 1), CKR.DEVICE_ERROR),
}

_ERRNO = {
    ENOSPC: CKR.DEVICE_MEMORY,
    EDQUOT: CKR.DEVICE_MEMORY,
    EROFS: CKR.TOKEN_WRITE_PROTECTED,
    EACCES: CKR.TOKEN_WRITE_PROTECTED,
    EPERM: CKR.TOKEN_WRITE_PROTECTED,
    ENOMEM: CKR.HOST_MEMORY,
    EMFILE: CKR.HOST_MEMORY,
    ENFILE: CKR.HOST_MEMORY,
}


def rv_of_tpm(code: int) -> int:
    """Return the return value for a TPM response code: never CKR_OK, never a wrong PIN."""
    return _TPM.get(code, CKR.FUNCTION_FAILED)


def rv_of(exception: BaseException) -> int:
    """Return the return value for any exception: never CKR_OK."""
    if isinstance(exception, Error):
        return exception.rv or CKR.GENERAL_ERROR
    if isinstance(exception, MemoryError):
        return CKR.HOST_MEMORY
    if isinstance(exception, OSError):
        return _ERRNO.get(exception.errno or 0, CKR.GENERAL_ERROR)
    return CKR.GENERAL_ERROR
