"""RSA (Current Mechanisms 3.0, clause 2.1): signatures by private keys, and the way to all else."""

from __future__ import annotations

from p11tpm.ck import CKA
from p11tpm.crypto import padding
from p11tpm.crypto.message import Message
from p11tpm.family.family import Family
from p11tpm.mechanism import PSS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism


class RsaSigner:
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


class Rsa(Family):
    """RSA: private keys are in the TPM, except session keys that may leave it."""

    signer = RsaSigner
    later = "rsa_later"


FAMILY = Rsa()
