"""Signatures (clause 5.13), by private and by secret keys."""

from __future__ import annotations

from p11tpm.algorithm import CURVES
from p11tpm.ck import CKA, CKF, CKO
from p11tpm.crypto import padding
from p11tpm.host.imports import Late
from p11tpm.mechanism import DSA, ECDSA, PKCS1, PSS, RAW, curve_of
from p11tpm.operation.message import Message
from p11tpm.operation.use import check_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism
    from p11tpm.operation import dsa, mac
    from p11tpm.parameter import Given

    class Signer(Protocol):
        """What signs, in the TPM or in software; `size`: bytes of a signature, or the most of them."""

        message: Message
        size: int

        def sign(self, data: bytes, /) -> bytes:
            """Sign what came of the message."""
else:
    dsa = Late("p11tpm.operation.dsa")
    mac = Late("p11tpm.operation.mac")


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
        self._signer: Signer = _signer_of(row)(token, key, row, params)
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


class Rsa:
    """Signs with an RSA key."""

    __slots__ = ("_key", "_modulus", "_params", "_row", "_token", "message", "size")

    def __init__(self, token: Token, key: Object, row: Mechanism, params: Any) -> None:
        self._token = token
        self._key = key
        self._row = row
        self._params = params
        self._modulus = key.get(CKA.MODULUS)
        self.message = Message.hashed(row.digest)
        self.size = len(self._modulus)
        if row.form == PSS:
            padding.pss_room(self._bits, params.digest, params.salt_length)

    @property
    def _bits(self) -> int:
        return int.from_bytes(self._modulus, "big").bit_length()

    def sign(self, data: bytes) -> bytes:
        """Pad the hash or data as the mechanism says and sign it."""
        params = self._params
        if self._row.form == PSS:
            block = padding.pss(data, self._bits, params.digest, params.mask, params.salt_length)
        else:
            block = padding.signed_block(self._row.form, self._row.digest, data, self._modulus)
        return self._token.user_of(self._key).rsa(self._key, block.rjust(self.size, b"\x00"))


class Ecdsa:
    """Signs with an EC key."""

    __slots__ = ("_bits", "_key", "_token", "message", "size")

    def __init__(self, token: Token, key: Object, row: Mechanism, _params: Any) -> None:
        self._token = token
        self._key = key
        curve = CURVES[curve_of(key.get(CKA.EC_PARAMS))]
        self._bits = curve.bits
        self.message = Message.hashed(row.digest)
        self.size = 2 * curve.size

    def sign(self, data: bytes) -> bytes:
        """Sign a hash: r and s, each as long as the curve's order."""
        pair = self._token.user_of(self._key).ecdsa(self._key, padding.ecdsa(data, self._bits))
        return b"".join(number.to_bytes(self.size // 2, "big") for number in pair)


_SIGNERS: dict[str, Any] = {PKCS1: Rsa, RAW: Rsa, PSS: Rsa, ECDSA: Ecdsa}


def _signer_of(row: Mechanism) -> Any:
    signer = _SIGNERS.get(row.form)
    if signer is None:
        signer = dsa.Signer if row.form == DSA else mac.Mac
    return signer
