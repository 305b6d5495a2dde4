"""Message authentication codes made of block ciphers (Current Mechanisms 3.0: 2.9 and 2.13)."""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.mechanism import CBC, ECB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.crypto.block import BlockCipher

_R = {64: 0x1B, 128: 0x87}  # bits of a block: the constant of SP 800-38B, clause 5.3


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
