"""Block ciphers with their keys, wherever a key is: in memory, or in the TPM.

Both give a mode at work (NIST SP 800-38A) as the package cryptography has it: `update` and `finalize`.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from p11tpm.ck import CKK
from p11tpm.mechanism import CBC, CFB, CTR, ECB
from p11tpm.parameter import AES_BLOCK, DES_BLOCK
from p11tpm.tpm.symmetric import MOST

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

    from p11tpm.object import Object
    from p11tpm.token import Token
    from p11tpm.vault import Vault

    class Context(Protocol):
        """A mode at work in one direction."""

        def update(self, data: bytes, /) -> bytes:
            """Take the next bytes; ECB and CBC give whole blocks, the other modes as many as they took."""

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
_STREAMS = {CTR, CFB}  # modes that take any number of bytes


def block_cipher(token: Token, key: Object) -> BlockCipher:
    """Give the block cipher of a secret key, which is of a type that has one."""
    if key.in_tpm:
        return InTpm(token.vault, key)
    return InMemory(key.key_type, key.secret())


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
        return making.encryptor() if encrypt else making.decryptor()


class InTpm:
    """AES by the TPM."""

    block = AES_BLOCK

    def __init__(self, vault: Vault, key: Object) -> None:
        self._vault = vault
        self._key = key

    def context(self, mode: str, iv: bytes = b"", *, encrypt: bool = True) -> Context:
        """Begin a mode; the TPM is asked when there are data."""
        return _TpmContext(self._vault, self._key, mode, iv, encrypt)


class _TpmContext:
    """A mode of AES at work in the TPM, in as many commands as it takes."""

    def __init__(self, vault: Vault, key: Object, mode: str, iv: bytes, encrypt: bool) -> None:
        self._vault = vault
        self._key = key
        self._mode = mode
        self._iv = iv
        self._encrypt = encrypt
        self._rest = b""  # of a block: what has to wait, or in CTR and CFB what was given already

    def update(self, data: bytes) -> bytes:
        """Take the next bytes."""
        if not data:
            return b""
        given = len(self._rest) if self._mode in _STREAMS else 0
        data = self._rest + data
        whole = len(data) - len(data) % AES_BLOCK
        self._rest = data[whole:]
        if self._mode not in _STREAMS:
            data = data[:whole]
        return b"".join([self._step(data[at : at + MOST]) for at in range(0, len(data), MOST)])[given:]

    def _step(self, data: bytes) -> bytes:
        result = self._vault.aes(self._key, self._mode, self._iv, data, encrypt=self._encrypt)
        blocks = len(data) // AES_BLOCK
        if self._mode == CTR:
            counter = int.from_bytes(self._iv, "big") + blocks
            self._iv = (counter % (1 << 8 * AES_BLOCK)).to_bytes(AES_BLOCK, "big")
        elif self._mode != ECB and blocks:
            encrypted = result if self._encrypt else data
            self._iv = encrypted[(blocks - 1) * AES_BLOCK : blocks * AES_BLOCK]
        return result

    def finalize(self) -> bytes:
        """End the mode."""
        if self._rest and self._mode not in _STREAMS:
            raise ValueError("the data are not whole blocks")
        return b""
