"""Message digests (clause 5.12), in software: by libcrypto, which is several times faster with much data."""

from __future__ import annotations

import hashlib
from functools import partial

from p11tpm.algorithm import HASHES
from p11tpm.ck import CKF, CKO, CKR
from p11tpm.crypto.message import Message
from p11tpm.error import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.given import Given


_new = partial(hashlib.new, usedforsecurity=False)  # MD5 is there wherever the host wants it


class Digest:
    """A digest in the making. `size`: its bytes."""

    def __init__(self, token: Token, given: Given) -> None:
        """Raise CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID."""
        row = token.mechanism(given.type, CKF.DIGEST)
        row.params(given)
        self._message = Message.hashed(row.digest, _new)
        self.size = HASHES[row.digest or ""].size
        self.update = self._message.update
        self.digest = self._message.whole
        self.finish = self._message.finish

    def add_key(self, key: Object) -> None:
        """Digest the value of a secret key; CKR_KEY_INDIGESTIBLE for any other, and for one in the TPM."""
        if key.object_class != CKO.SECRET_KEY or key.in_tpm:
            raise Error(CKR.KEY_INDIGESTIBLE, "secret keys have a value to digest, unless it is in the TPM")
        self.update(key.secret())
