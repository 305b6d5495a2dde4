"""Elliptic curves (Current Mechanisms 3.0, clause 2.3): signatures by private keys, and the way to all else."""

from __future__ import annotations

from p11tpm.algorithm import CURVES
from p11tpm.ck import CKA
from p11tpm.crypto import padding
from p11tpm.crypto.message import Message
from p11tpm.family.family import Family
from p11tpm.mechanism import curve_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism


class EcdsaSigner:
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


class Ec(Family):
    """ECDSA and ECDH: private keys are in the TPM, except session keys that may leave it."""

    signer = EcdsaSigner
    later = "ec_later"


FAMILY = Ec()
