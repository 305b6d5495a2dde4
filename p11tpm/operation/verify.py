"""Verification (clause 5.15): in software, by public keys without a login, and by secret keys."""

from __future__ import annotations

from p11tpm.algorithm import CURVES
from p11tpm.ck import CKA, CKF, CKO, CKR
from p11tpm.crypto import padding
from p11tpm.crypto.public import ec_key, hash_algorithm, prehashed, rsa_key, rsa_raw
from p11tpm.error import Error
from p11tpm.host.imports import Late
from p11tpm.mechanism import CBC_MAC, CMAC, DSA, ECDSA, HMAC, PKCS1, PSS, RAW, curve_of
from p11tpm.operation.dsa import Verifier as Dsa
from p11tpm.operation.mac import Mac
from p11tpm.operation.message import Message
from p11tpm.operation.use import check_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cryptography import exceptions
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.asymmetric import padding as schemes

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism
    from p11tpm.parameter import Given
else:
    exceptions = Late("cryptography.exceptions")
    ec = Late("cryptography.hazmat.primitives.asymmetric.ec")
    schemes = Late("cryptography.hazmat.primitives.asymmetric.padding")
    utils = Late("cryptography.hazmat.primitives.asymmetric.utils")


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
        self._verifier = _VERIFIERS[row.form](token, key, row, params)
        self._message: Message = self._verifier.message
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
        block = rsa_raw(self._key, signature)
        data = block if block is None or self._row.form == RAW else padding.recovered(block)
        if data is None:
            raise Error(CKR.SIGNATURE_INVALID, "the signature is wrong")
        return data


def _check_length(signature: bytes, size: int) -> None:
    if len(signature) != size:
        raise Error(CKR.SIGNATURE_LEN_RANGE, f"a signature of this key has {size} bytes")


class Rsa:
    """Verifies what can be signed in one way only: it is made again and compared (RFC 8017, clause 8.2.2)."""

    __slots__ = ("_key", "_row", "message", "size")

    def __init__(self, _token: Token, key: Object, row: Mechanism, _params: Any) -> None:
        self._key = key
        self._row = row
        self.message = Message.hashed(row.digest)
        self.size = len(key.get(CKA.MODULUS))

    def check(self, data: bytes, signature: bytes) -> bool:
        """Return whether the signature is that of the data or their hash."""
        block = padding.signed_block(self._row.form, self._row.digest, data, self._key.get(CKA.MODULUS))
        return block == rsa_raw(self._key, signature)


class Pss:
    """Verifies RSA-PSS."""

    __slots__ = ("_key", "_params", "message", "size")

    def __init__(self, _token: Token, key: Object, row: Mechanism, params: Any) -> None:
        self._key = rsa_key(key)
        self._params = params
        padding.pss_room(self._key.key_size, params.digest, params.salt_length)
        self.message = Message.hashed(row.digest)
        self.size = len(key.get(CKA.MODULUS))

    def check(self, hashed: bytes, signature: bytes) -> bool:
        """Return whether the signature is that of a hash; raises what `padding.check_pss_digest` does."""
        params = self._params
        padding.check_pss_digest(hashed, params.digest)
        scheme = schemes.PSS(schemes.MGF1(hash_algorithm(params.mask)), params.salt_length)
        try:
            self._key.verify(signature, hashed, scheme, utils.Prehashed(hash_algorithm(params.digest)))
        except exceptions.InvalidSignature:
            return False
        return True


class Ecdsa:
    """Verifies ECDSA."""

    __slots__ = ("_bits", "_key", "message", "size")

    def __init__(self, _token: Token, key: Object, row: Mechanism, _params: Any) -> None:
        self._key = ec_key(key)
        curve = CURVES[curve_of(key.get(CKA.EC_PARAMS))]
        self._bits = curve.bits
        self.message = Message.hashed(row.digest)
        self.size = 2 * curve.size

    def check(self, data: bytes, signature: bytes) -> bool:
        """Return whether the signature, r and s side by side, is that of a hash."""
        hashed, half = padding.ecdsa(data, self._bits), self.size // 2
        r, s = (int.from_bytes(number, "big") for number in (signature[:half], signature[half:]))
        try:
            self._key.verify(utils.encode_dss_signature(r, s), hashed, ec.ECDSA(prehashed(len(hashed))))
        except exceptions.InvalidSignature:
            return False
        return True


_VERIFIERS: dict[str, Any] = {PKCS1: Rsa, RAW: Rsa, PSS: Pss, ECDSA: Ecdsa}
_VERIFIERS |= {DSA: Dsa, HMAC: Mac, CMAC: Mac, CBC_MAC: Mac}
