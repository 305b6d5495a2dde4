"""HMAC, by keys in memory and in the TPM (Current Mechanisms 3.0, clause 2.20)."""

from __future__ import annotations

import hashlib
import hmac
from functools import partial

from p11tpm.algorithm import HASHES
from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.family.family import Family
from p11tpm.family.mac import Mac

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.core.token_tpm import TokenTpm
    from p11tpm.mechanism import Mechanism

_MOST_COLLECTED = 1 << 30  # bytes of a message for the TPM, which is kept until all of it is there


class _TpmHmac:
    """An HMAC that the TPM makes when all of the message is there."""

    def __init__(self, tpm: TokenTpm, key: Object, digest: str) -> None:
        self._tpm = tpm
        self._key = key
        self._digest = digest
        self._parts: list[bytes] = []
        self._length = 0

    def update(self, data: bytes) -> None:
        """Process the next bytes; CKR_DATA_LEN_RANGE if they are too many."""
        self._length += len(data)
        if self._length > _MOST_COLLECTED:
            raise Error(CKR.DATA_LEN_RANGE, "this is too much to be kept for the TPM")
        self._parts.append(data)

    def digest(self) -> bytes:
        """Return the code."""
        return self._tpm.hmac(self._key, self._digest, b"".join(self._parts))


class Hmac(Family):
    """HMAC of each hash."""

    def signer(self, token: Token, key: Object, row: Mechanism, params: Any) -> Mac:
        """Return what signs or verifies."""
        digest = row.digest or ""
        new = partial(hashlib.new, digest, usedforsecurity=False)  # MD5 wherever it is wanted
        most = HASHES[digest].size
        if key.in_tpm:
            return Mac(lambda: _TpmHmac(token.tpm, key, digest), params, most)
        value = key.secret()
        return Mac(lambda: hmac.new(value, None, new), params, most)

    verifier = signer


FAMILY = Hmac()
