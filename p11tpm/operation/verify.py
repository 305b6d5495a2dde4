"""Verification (clause 5.15): in software, by public keys without a login, and by secret keys."""

from __future__ import annotations

from p11tpm.ck import CKA, CKF, CKO, CKR
from p11tpm.error import Error
from p11tpm.family.family import family
from p11tpm.operation.use import check_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.given import Given


class Verify:
    """A verification going on."""

    def __init__(self, token: Token, key: Object, given: Given) -> None:
        """Check that the key may verify with the mechanism.

        Raises CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID, CKR_KEY_TYPE_INCONSISTENT, CKR_KEY_SIZE_RANGE,
        CKR_KEY_FUNCTION_NOT_PERMITTED.
        """
        row = token.mechanism(given.type, CKF.VERIFY)
        params = row.params(given)
        check_use(key, row, CKA.VERIFY, CKO.PUBLIC_KEY if row.of_pairs else CKO.SECRET_KEY)
        self._verifier = family(row.family).verifier(token, key, row, params)
        self._message = self._verifier.message
        self.update = self._message.update

    def verify(self, data: bytes, signature: bytes) -> None:
        """Verify data in one part.

        Raises CKR_SIGNATURE_LEN_RANGE, CKR_SIGNATURE_INVALID; CKR_OPERATION_NOT_INITIALIZED after C_VerifyUpdate.
        """
        _check_length(signature, self._verifier.size)
        self._check(self._message.whole(data), signature)

    def finish(self, signature: bytes) -> None:
        """Verify the parts; raises what `verify` does."""
        _check_length(signature, self._verifier.size)
        self._check(self._message.finish(), signature)

    def _check(self, data: bytes, signature: bytes) -> None:
        if not self._verifier.check(data, signature):
            raise Error(CKR.SIGNATURE_INVALID, "the signature is wrong")


class VerifyRecover:
    """A verification that gives the data back (clauses 5.15.5 and 5.15.6)."""

    def __init__(self, token: Token, key: Object, given: Given) -> None:
        """Check that the key may verify with the mechanism; raises what `Verify` does."""
        self._row = token.mechanism(given.type, CKF.VERIFY_RECOVER)
        self._row.params(given)
        check_use(key, self._row, CKA.VERIFY_RECOVER, CKO.PUBLIC_KEY)
        self._key = key

    def recover(self, signature: bytes) -> bytes:
        """Return what was signed; CKR_SIGNATURE_LEN_RANGE, CKR_SIGNATURE_INVALID."""
        _check_length(signature, len(self._key.get(CKA.MODULUS)))
        data = family(self._row.family).recover(self._key, self._row, signature)
        if data is None:
            raise Error(CKR.SIGNATURE_INVALID, "the signature is wrong")
        return data


def _check_length(signature: bytes, size: int) -> None:
    if len(signature) != size:
        raise Error(CKR.SIGNATURE_LEN_RANGE, f"a signature of this key has {size} bytes")
