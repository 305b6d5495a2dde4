"""Repetition after a failure: of which actions, and how often."""

from __future__ import annotations

from time import monotonic, sleep

from p11tpm.ck import CKR
from p11tpm.error import POLICY_REFUSALS, TPM, Error, TpmError
from p11tpm.tpm.connection import LostError, NotKeptError, StaleError

_FULL = frozenset({TPM.CONTEXT_GAP, TPM.OBJECT_MEMORY, TPM.SESSION_MEMORY, TPM.MEMORY, TPM.SESSION_HANDLES})
_GONE = frozenset(range(TPM.REFERENCE_H0, TPM.REFERENCE_LAST + 1))
_SECONDS = 30  # after which nothing is tried again
_FULL_TRIES = 5
_RECLAIMS = 1
_REOPENINGS = 1
_REBUILDINGS = 1
_IDLE_ENDS = 3  # the connection closed itself between two commands of one call: hardly ever once


class Retry:
    """The tries that one call has left."""

    __slots__ = ("_end", "_full", "_idle", "_rebuild", "_reclaim", "_reopen")

    def __init__(self) -> None:
        self._end = monotonic() + _SECONDS
        self._full = _FULL_TRIES
        self._reclaim = _RECLAIMS
        self._reopen = _REOPENINGS
        self._rebuild = _REBUILDINGS
        self._idle = _IDLE_ENDS

    def after(self, error: Exception, *, stale_possible: bool) -> bool:
        """Return whether the call may be tried again with a new connection, having waited if that helps.

        `stale_possible`: the session or key was older than the call, and somebody else's may be in its place by now.
        """
        if monotonic() > self._end:
            return False
        if isinstance(error, StaleError):
            self._idle -= 1
            return self._idle >= 0
        if isinstance(error, NotKeptError):
            return self._after_full()
        if isinstance(error, LostError):
            self._reopen -= 1
            return self._reopen >= 0
        if isinstance(error, TpmError):
            return self._after_code(error.code, stale_possible=stale_possible)
        return False

    def _after_code(self, code: int, *, stale_possible: bool) -> bool:
        if code in _FULL:
            return self._after_full()
        if code in _GONE or (stale_possible and _is_about_what_is_loaded(code)):
            self._rebuild -= 1
            return self._rebuild >= 0
        return False

    def _after_full(self) -> bool:
        self._full -= 1
        if self._full >= 0:
            sleep(0.02 * 2 ** (_FULL_TRIES - 1 - self._full))
        return self._full >= 0

    def may_reclaim(self, error: Exception) -> bool:
        """Return whether the TPM stayed full, and what was left in it by others was not looked at yet."""
        if not (isinstance(error, TpmError) and error.code in _FULL):
            return False
        self._reclaim -= 1
        return self._reclaim >= 0


def _is_about_what_is_loaded(code: int) -> bool:
    """Return whether a handle or session is not what it was taken for: format one without P (Part 2, clause 6.6.2).

    The TPM complains of the session where a policy is not satisfied, too, which another session does not help.
    """
    return code & 0xC0 == 0x80 and code not in POLICY_REFUSALS


def outcome(error: Exception) -> Error:
    """Return the error of a call whose tries are used up."""
    if isinstance(error, Error):
        return error
    if isinstance(error, ValueError):
        return Error(CKR.DEVICE_ERROR, "the TPM's response makes no sense")
    return Error(CKR.DEVICE_ERROR, "the connection to the TPM closes before it can be used")
