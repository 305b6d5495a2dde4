"""A policy session, in which the TPM is shown step by step that a policy is satisfied (TPM 2.0 Part 1, clause 19.7)."""

from __future__ import annotations

from p11tpm.error import Error
from p11tpm.tpm import command
from p11tpm.tpm.codec import u16

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.tpm.hmac_session import HmacSession
    from p11tpm.tpm.tpm import Tpm


class PolicySession:
    """A context with a salted policy session, which the use of what it authorises ends."""

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


def prove(tpm: Tpm, session: HmacSession) -> None:
    """Have the TPM prove that it knows the session's key and nonces, before a PIN depends on them.

    Without that a fault on the way would look like a wrong PIN to the TPM. Any command with an encrypted response does.
    """
    tpm.wire.authorised(command.GET_RANDOM, session, (), None, u16(1))
