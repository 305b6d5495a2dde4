"""Message authentication codes, in software (Current Mechanisms 3.0, clauses 2.9, 2.13 and 2.20)."""

from __future__ import annotations

import hashlib
import hmac

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.late import loading
from p11tpm.mechanism import CBC_MAC, CMAC, HMAC
from p11tpm.operation.message import Message
from p11tpm.parameter import AES_BLOCK, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.mechanism import Mechanism
    from p11tpm.object import Object
    from p11tpm.operation.message import Context
    from p11tpm.token import Token


class Cmac:
    """AES-CMAC in the making (NIST SP 800-38B)."""

    def __init__(self, key: bytes, _digest: str | None) -> None:
        with loading:
            from cryptography.hazmat.primitives import cmac
            from cryptography.hazmat.primitives.ciphers.algorithms import AES

        self._context = cmac.CMAC(AES(key))
        self.update = self._context.update

    def digest(self) -> bytes:
        """Give the code, once."""
        return self._context.finalize()


class CbcMac:
    """AES-CBC-MAC in the making: zeros fill the last block (FIPS 113; Current Mechanisms 3.0, clause 2.9.5).

    The standard warns of it: whoever knows the codes of two messages can make a third. Hosts that may choose take CMAC.
    """

    def __init__(self, key: bytes, _digest: str | None) -> None:
        with loading:
            from cryptography.hazmat.primitives.ciphers import Cipher
            from cryptography.hazmat.primitives.ciphers.algorithms import AES
            from cryptography.hazmat.primitives.ciphers.modes import CBC

        self._cipher = Cipher(AES(key), CBC(bytes(AES_BLOCK))).encryptor()
        self._length = 0
        self._last = b""

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        self._length += len(data)
        self._last = self._cipher.update(data)[-AES_BLOCK:] or self._last

    def digest(self) -> bytes:
        """Give the code; CKR_DATA_LEN_RANGE for no data, whose code would be the same with every key."""
        self.update(bytes(-self._length % AES_BLOCK))
        if not self._last:
            raise Error(CKR.DATA_LEN_RANGE, "a CBC-MAC needs data")
        return self._last


def _hmac(key: bytes, digest: str | None) -> Context:
    return hmac.new(key, None, digest or "")


_CONTEXTS: dict[str, Any] = {HMAC: _hmac, CMAC: Cmac, CBC_MAC: CbcMac}


class Mac:
    """Signs and verifies with a secret key. `size`: bytes of the code that the host sees, the leftmost ones."""

    __slots__ = ("message", "size")

    def __init__(self, _token: Token, key: Object, row: Mechanism, params: Any) -> None:
        """Raise CKR_MECHANISM_PARAM_INVALID for a length that the code does not have."""
        most = hashlib.new(row.digest).digest_size if row.digest else AES_BLOCK
        self.size = getattr(params, "length", most // 2 if row.form == CBC_MAC else most)
        if not 0 < self.size <= most:
            raise refused(f"the code has 1 to {most} bytes")
        value, make = key.secret(), _CONTEXTS[row.form]
        self.message = Message(lambda: make(value, row.digest))

    def sign(self, code: bytes) -> bytes:
        """Give as much of the code as the mechanism or its parameter says."""
        return code[: self.size]

    def check(self, code: bytes, signature: bytes) -> bool:
        """Say whether a code is the right one, in a time that does not tell how much of it is."""
        return hmac.compare_digest(self.sign(code), signature)
