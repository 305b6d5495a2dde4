"""Message authentication codes, by keys in memory and in the TPM (Current Mechanisms 3.0: 2.9, 2.13 and 2.20)."""

from __future__ import annotations

import hashlib
import hmac
from functools import partial

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.host.imports import Late
from p11tpm.mechanism import CBC, CBC_MAC, CMAC, ECB, HMAC
from p11tpm.operation.message import Message
from p11tpm.parameter import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.core.token_tpm import TokenTpm
    from p11tpm.crypto.block import BlockCipher
    from p11tpm.mechanism import Mechanism
    from p11tpm.operation import block
    from p11tpm.operation.message import Context
else:
    block = Late("p11tpm.operation.block")

_MOST_COLLECTED = 1 << 30  # bytes of a message for the TPM, which is kept until all of it is there


class CbcMac:
    """A CBC-MAC in the making: zeros fill the last block (FIPS 113; Current Mechanisms 3.0, clause 2.9.5).

    The standard warns of it: whoever knows the codes of two messages can make a third. Hosts that may choose take CMAC.
    """

    def __init__(self, cipher: BlockCipher) -> None:
        self._context = cipher.context(CBC, bytes(cipher.block))
        self._block = cipher.block
        self._length = 0
        self._last = b""

    def update(self, data: bytes) -> None:
        """Process the next bytes."""
        self._length += len(data)
        self._last = self._context.update(data)[-self._block :] or self._last

    def digest(self) -> bytes:
        """Return the code; CKR_DATA_LEN_RANGE for no data, whose code would be the same with every key."""
        self.update(bytes(-self._length % self._block))
        if not self._last:
            raise Error(CKR.DATA_LEN_RANGE, "a CBC-MAC needs data")
        return self._last


class Cmac:
    """A CMAC in the making (NIST SP 800-38B), of a message's blocks but the last by CBC."""

    def __init__(self, cipher: BlockCipher) -> None:
        self._cipher = cipher
        self._context = cipher.context(CBC, bytes(cipher.block))
        self._last = b""  # it is treated differently, and may be the one that came last

    def update(self, data: bytes) -> None:
        """Process the next bytes."""
        data = self._last + data
        before = max(0, len(data) - 1) // self._cipher.block * self._cipher.block
        self._context.update(data[:before])
        self._last = data[before:]

    def digest(self) -> bytes:
        """Return the code, once."""
        size = self._cipher.block
        subkey = self._doubled(self._cipher.context(ECB).update(bytes(size)))
        block = self._last
        if len(block) < size:
            subkey = self._doubled(subkey)
            block = (block + b"\x80").ljust(size, b"\0")
        return self._context.update(bytes(a ^ b for a, b in zip(block, subkey, strict=True)))

    @staticmethod
    def _doubled(block: bytes) -> bytes:
        """Multiply by x in the field (clause 6.1)."""
        bits, number = 8 * len(block), int.from_bytes(block, "big")
        number = (number << 1) ^ (_R[bits] if number >> (bits - 1) else 0)
        return (number % (1 << bits)).to_bytes(len(block), "big")


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


def _hmac(token: Token, key: Object, digest: str) -> Callable[[], Context]:
    if key.in_tpm:
        return lambda: _TpmHmac(token.tpm, key, digest)
    value, new = key.secret(), partial(hashlib.new, digest, usedforsecurity=False)  # MD5 wherever it is wanted
    return lambda: hmac.new(value, None, new)


_R = {64: 0x1B, 128: 0x87}  # bits of a block: the constant of SP 800-38B, clause 5.3
_OF_BLOCKS: dict[str, Callable[[BlockCipher], Context]] = {CMAC: Cmac, CBC_MAC: CbcMac}


class Mac:
    """Signs and verifies with a secret key. `size`: bytes of the code that the host sees, the leftmost ones."""

    __slots__ = ("message", "size")

    def __init__(self, token: Token, key: Object, row: Mechanism, params: Any) -> None:
        """Raise CKR_MECHANISM_PARAM_INVALID for a length that the code does not have."""
        if row.form == HMAC:
            most = hashlib.new(row.digest or "", usedforsecurity=False).digest_size
            start = _hmac(token, key, row.digest or "")
        else:
            cipher = block.block_cipher(token, key)
            most, start = cipher.block, partial(_OF_BLOCKS[row.form], cipher)
        self.size = getattr(params, "length", most // 2 if row.form == CBC_MAC else most)
        if not 0 < self.size <= most:
            raise refused(f"the code has 1 to {most} bytes")
        self.message = Message(start)

    def sign(self, code: bytes) -> bytes:
        """Return as much of the code as the mechanism or its parameter says."""
        return code[: self.size]

    def check(self, code: bytes, signature: bytes) -> bool:
        """Return whether a code is the right one, in a time that does not tell how much of it is."""
        return hmac.compare_digest(self.sign(code), signature)
