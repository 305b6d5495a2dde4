"""Block ciphers with their keys, wherever a key is: in memory, or in the TPM."""

from __future__ import annotations

from p11tpm.crypto.block import InMemory
from p11tpm.mechanism import CFB, CTR, ECB
from p11tpm.parameter import AES_BLOCK
from p11tpm.tpm.symmetric import MOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.core.token_tpm import TokenTpm
    from p11tpm.crypto.block import BlockCipher, Context

_STREAMS = {CTR, CFB}  # modes that take any number of bytes


def block_cipher(token: Token, key: Object) -> BlockCipher:
    """Return the block cipher of a secret key, which is of a type that has one."""
    if key.in_tpm:
        return InTpm(token.tpm, key)
    return InMemory(key.key_type, key.secret())


class InTpm:
    """AES by the TPM."""

    block = AES_BLOCK

    def __init__(self, tpm: TokenTpm, key: Object) -> None:
        self._tpm = tpm
        self._key = key

    def context(self, mode: str, iv: bytes = b"", *, encrypt: bool = True) -> Context:
        """Begin a mode; the TPM is asked when there are data."""
        return _TpmContext(self._tpm, self._key, mode, iv, encrypt)


class _TpmContext:
    """A mode of AES at work in the TPM, in as many commands as it takes."""

    def __init__(self, tpm: TokenTpm, key: Object, mode: str, iv: bytes, encrypt: bool) -> None:
        self._tpm = tpm
        self._key = key
        self._mode = mode
        self._iv = iv
        self._encrypt = encrypt
        self._rest = b""  # of a block: bytes that have to wait, or in CTR and CFB bytes that were given already

    def update(self, data: bytes) -> bytes:
        """Process the next bytes."""
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
        result = self._tpm.aes(self._key, self._mode, self._iv, data, encrypt=self._encrypt)
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
