"""Signatures (clause 5.13), by private and by secret keys."""

from __future__ import annotations

from p11tpm.ck import CKA, CKF, CKO
from p11tpm.family.family import family
from p11tpm.operation.use import check_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.given import Given


class Sign:
    """A signature in the making. `size`: its bytes, or the most that it may have."""

    does, usage = CKF.SIGN, CKA.SIGN

    def __init__(self, token: Token, key: Object, given: Given) -> None:
        """Check that the key may sign with the mechanism.

        Raises CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID, CKR_KEY_TYPE_INCONSISTENT,
        CKR_KEY_FUNCTION_NOT_PERMITTED.
        """
        row = token.mechanism(given.type, self.does)
        params = row.params(given)
        check_use(key, row, self.usage, CKO.PRIVATE_KEY if row.of_pairs else CKO.SECRET_KEY)
        self._signer = family(row.family).signer(token, key, row, params)
        self._message = self._signer.message
        self.size = self._signer.size
        self.update = self._message.update

    def sign(self, data: bytes) -> bytes:
        """Sign data in one part; CKR_OPERATION_NOT_INITIALIZED after C_SignUpdate."""
        return self._signer.sign(self._message.whole(data))

    def finish(self) -> bytes:
        """Sign the parts."""
        return self._signer.sign(self._message.finish())


class SignRecover(Sign):
    """A signature from which the data can be recovered (clauses 5.13.5 and 5.13.6): one part only."""

    does, usage = CKF.SIGN_RECOVER, CKA.SIGN_RECOVER
