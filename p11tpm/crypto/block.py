"""Block ciphers of keys in memory, by OpenSSL.

A mode at work (NIST SP 800-38A) is as the package cryptography has it: `update` and `finalize`.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from p11tpm.ck import CKK
from p11tpm.mechanism import CBC, CFB, CTR, ECB
from p11tpm.parameter import AES_BLOCK, DES_BLOCK

try:
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES  # from version 43 on
except ImportError:
    from cryptography.hazmat.primitives.ciphers.algorithms import TripleDES
try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB as CFB_MODE  # from version 46 on
except ImportError:
    from cryptography.hazmat.primitives.ciphers.modes import CFB as CFB_MODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Context(Protocol):
        """A mode at work in one direction."""

        def update(self, data: bytes, /) -> bytes:
            """Process the next bytes; ECB and CBC give whole blocks, the other modes as many as they took."""

        def finalize(self) -> bytes:
            """End; ValueError in the middle of a block of ECB or CBC."""

    class BlockCipher(Protocol):
        """A block cipher with its key. `block`: bytes of a block."""

        block: int

        def context(self, mode: str, iv: bytes = b"", *, encrypt: bool = True) -> Context:
            """Begin ECB, CBC, CTR or CFB; `iv` is the first counter block of CTR."""


_MODES: dict[str, Callable[[bytes], Any]] = {
    ECB: lambda _: modes.ECB(),  # noqa: S305 - the host's choice, and what other modes are made of
    CBC: modes.CBC,
    CTR: modes.CTR,
    CFB: CFB_MODE,
}


class InMemory:
    """A block cipher by OpenSSL. `algorithm`: it and its key, as cryptography has them."""

    def __init__(self, key_type: int | None, value: bytes) -> None:
        self.algorithm: Any
        if key_type == CKK.AES:
            self.algorithm, self.block = algorithms.AES(value), AES_BLOCK
        else:  # a key of double length has its first part once more at its end (clause 2.16)
            self.algorithm, self.block = TripleDES((value + value)[:24]), DES_BLOCK

    def context(self, mode: str, iv: bytes = b"", *, encrypt: bool = True) -> Context:
        """Begin a mode."""
        making = Cipher(self.algorithm, _MODES[mode](iv))
        return _Context(making.encryptor() if encrypt else making.decryptor(), self.block)


def convert(context: Any, data: bytes, block: int) -> bytes:
    """Have a context of cryptography take data, and put what becomes of them where they are wiped when nobody has them.

    `update` would make it in memory of its own first.
    """
    made = bytearray(len(data) + block - 1)
    return bytes(memoryview(made)[: context.update_into(data, made)])


class _Context:
    """A mode at work."""

    def __init__(self, context: Any, block: int) -> None:
        self._context = context
        self._block = block

    def update(self, data: bytes) -> bytes:
        """Process the next bytes."""
        return convert(self._context, data, self._block)

    def finalize(self) -> bytes:
        """End the mode."""
        last: bytes = self._context.finalize()
        return last
