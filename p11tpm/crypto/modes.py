"""AES and DES: one class for each family of modes, one row for each mode (Current Mechanisms 3.0, 2.9 to 2.17).

Its modes are those of NIST SP 800-38A, C (CCM), D (GCM) and F (key wrapping).
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as Making
from cryptography.hazmat.primitives.ciphers import modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from p11tpm.ck import CKR
from p11tpm.crypto import gcm, key_wrap
from p11tpm.crypto.block import convert
from p11tpm.crypto.cipher import Cipher
from p11tpm.crypto.hashes import compare_digest
from p11tpm.error import Error
from p11tpm.given import refused
from p11tpm.mechanism import CBC, CBC_PAD, CCM, CFB, CTR, ECB, GCM, KEY_WRAP, KEY_WRAP_PAD
from p11tpm.parameter import AES_BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from p11tpm.crypto.block import BlockCipher, InMemory

_MOST_COLLECTED = 1 << 30  # bytes of a message that is kept until all of it is there
_MOST_GCM = (1 << 36) - 32  # bytes: SP 800-38D, clause 5.2.1.1
_LEAST_TAG = 4  # bytes: SP 800-38D, clause 5.2.1.2; a shorter one is guessed too soon


def length_error(encrypt: bool) -> Error:
    """Return what is raised for data of a wrong length."""
    rv = CKR.DATA_LEN_RANGE if encrypt else CKR.ENCRYPTED_DATA_LEN_RANGE
    return Error(rv, "the mechanism does not take data of this length")


def invalid() -> Error:
    """Return what is raised for a wrong tag or padding, and nothing more is said."""
    return Error(CKR.ENCRYPTED_DATA_INVALID, "these data were not encrypted like this, or were changed")


class Mode(Cipher):
    """ECB, CBC and CFB: whole blocks, the last one padded or not, or in a `stream` any number of bytes."""

    def __init__(
        self,
        cipher: BlockCipher,
        params: Any,
        encrypt: bool,
        *,
        mode: str,
        stream: bool = False,
        padded: bool = False,
    ) -> None:
        super().__init__()
        self._encrypt = encrypt
        self._block = cipher.block
        self._unit = 1 if stream else cipher.block
        self._context = cipher.context(mode, getattr(params, "iv", b""), encrypt=encrypt)
        self._pads, self._unpads = padded and encrypt, padded and not encrypt  # PKCS #7: RFC 5652, clause 6.3
        self._last = b""  # block, which may be padding

    def _given(self, taken: int) -> int:
        blocks = taken // self._unit * self._unit
        return max(0, blocks - self._block) if self._unpads else blocks

    def _most(self, taken: int) -> int:
        return (taken // self._block + 1) * self._block if self._pads else taken

    def _update(self, part: bytes) -> bytes:
        plain = self._last + self._context.update(part)
        if self._unpads:
            self._last = plain[-self._block :]
        return plain[: len(plain) - len(self._last)]

    def finish(self) -> bytes:
        """Return what is left."""
        if self._pads:
            missing = self._block - self.taken % self._block
            return self._context.update(bytes((missing,)) * missing) + self._context.finalize()
        if self.taken % self._unit or (self._unpads and not self.taken):
            raise length_error(self._encrypt)
        return self._unpadded(self._context.finalize()) if self._unpads else self._context.finalize()

    def _unpadded(self, rest: bytes) -> bytes:
        last = self._last + rest
        length = len(last) - last[-1]
        if not 0 < last[-1] <= self._block or not compare_digest(last[length:], last[-1:] * last[-1]):
            raise invalid()
        return last[:length]


class Counter(Cipher):
    """CTR: a counter of some bits at the end of the block, and as much data as it counts until it overflows.

    More are CKR_DATA_LEN_RANGE in both directions (clause 2.10).
    """

    def __init__(self, cipher: BlockCipher, params: Any, encrypt: bool) -> None:
        super().__init__()
        values: int = 1 << params.bits
        self._room = (values - int.from_bytes(params.block, "big") % values) * AES_BLOCK  # bytes
        self._context = cipher.context(CTR, params.block, encrypt=encrypt)

    def _given(self, taken: int) -> int:
        return taken

    _most = _given

    def _update(self, part: bytes) -> bytes:
        if self.taken + len(part) > self._room:
            raise length_error(encrypt=True)
        return self._context.update(part)

    def finish(self) -> bytes:
        """Return what is left."""
        return self._context.finalize()


def check_gcm(params: Any) -> None:
    """Refuse a tag that is guessed too soon: CKR_MECHANISM_PARAM_INVALID."""
    if params.tag_length < _LEAST_TAG:
        raise refused(f"AES-GCM needs a tag of {8 * _LEAST_TAG} bits at least")


def _gcm_nonce(cipher: InMemory, params: Any) -> bytes:
    nonce: bytes = params.nonce
    check_gcm(params)
    if 8 <= len(nonce) <= 128:  # what OpenSSL takes
        return nonce
    return gcm.equivalent(nonce, cipher.context(ECB).update(bytes(AES_BLOCK)))


class GcmEncrypt(Cipher):
    """GCM, encrypting, whoever does it: the tag comes last."""

    def __init__(self, params: Any) -> None:
        super().__init__()
        self._tag_length: int = params.tag_length

    @abstractmethod
    def _step(self, part: bytes) -> bytes:
        """Encrypt a part that is not too much."""

    def _given(self, taken: int) -> int:
        return taken

    def _most(self, taken: int) -> int:
        return taken + self._tag_length

    def _update(self, part: bytes) -> bytes:
        if self.taken + len(part) > _MOST_GCM:
            raise length_error(encrypt=True)
        return self._step(part)


class _GcmInMemory(GcmEncrypt):
    """GCM by OpenSSL."""

    def __init__(self, cipher: InMemory, params: Any) -> None:
        super().__init__(params)
        self._context = Making(cipher.algorithm, modes.GCM(_gcm_nonce(cipher, params))).encryptor()
        self._context.authenticate_additional_data(params.associated)

    def _step(self, part: bytes) -> bytes:
        return self._context.update(part)

    def finish(self) -> bytes:
        """Return what is left."""
        return self._context.finalize() + self._context.tag[: self._tag_length]


class Collected(Cipher):
    """A cipher that needs the whole message before it gives anything: `convert` turns it into the result.

    `length` says how long that is at most for a message of a length.
    """

    def __init__(self, encrypt: bool, length: Callable[[int], int], convert: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._encrypt = encrypt
        self._length = length
        self._convert = convert
        self._parts: list[bytes] = []

    def _given(self, _taken: int) -> int:
        return 0

    def _most(self, taken: int) -> int:
        return self._length(taken)

    def _update(self, part: bytes) -> bytes:
        if self.taken + len(part) > _MOST_COLLECTED:
            raise length_error(self._encrypt)
        self._parts.append(part)
        return b""

    def finish(self) -> bytes:
        """Return what is left."""
        message, self._parts = b"".join(self._parts), []
        return self._convert(message)


def _gcm(cipher: InMemory, params: Any, encrypt: bool) -> Cipher:
    """Make GCM; what it decrypts is not given before the tag was seen to be right (SP 800-38D, clause 7.2)."""
    if encrypt:
        return _GcmInMemory(cipher, params)
    nonce, tag_length = _gcm_nonce(cipher, params), params.tag_length

    def decrypt(message: bytes) -> bytes:
        if len(message) < tag_length:
            raise length_error(encrypt=False)
        mode = modes.GCM(nonce, message[-tag_length:], min_tag_length=_LEAST_TAG)
        context = Making(cipher.algorithm, mode).decryptor()
        context.authenticate_additional_data(params.associated)
        plain = convert(context, message[:-tag_length], AES_BLOCK)
        try:
            return plain + context.finalize()
        except InvalidTag:
            raise invalid() from None

    return Collected(encrypt, lambda taken: taken - tag_length, decrypt)


def ccm(params: Any, encrypt: bool, convert: Callable[[bytes], bytes]) -> Cipher:
    """Make CCM, which needs to know the length of the data beforehand: it must be what was announced.

    `convert` gets data of that length, with the tag after them when it decrypts.
    """
    length, tag_length = params.length, params.tag_length
    if length >> 8 * (15 - len(params.nonce)):
        raise refused("AES-CCM with a nonce of this length does not take data of the length that is announced")

    def checked(message: bytes) -> bytes:
        if len(message) != length + (0 if encrypt else tag_length):
            raise length_error(encrypt)
        return convert(message)

    return Collected(encrypt, lambda taken: taken + (tag_length if encrypt else -tag_length), checked)


def _ccm(cipher: InMemory, params: Any, encrypt: bool) -> Cipher:
    making = AESCCM(cipher.algorithm.key, params.tag_length)

    def convert(message: bytes) -> bytes:
        try:
            return (making.encrypt if encrypt else making.decrypt)(params.nonce, message, params.associated)
        except InvalidTag:
            raise invalid() from None

    return ccm(params, encrypt, convert)


def _key_wrap(cipher: BlockCipher, params: Any, encrypt: bool, *, padded: bool = False) -> Cipher:
    iv = key_wrap.initial(params.iv, padded=padded)
    block = cipher.context(ECB, encrypt=encrypt).update
    if padded:
        convert = partial(key_wrap.wrap_padded if encrypt else key_wrap.unwrap_padded, block, iv)
    else:
        convert = partial(key_wrap.wrap if encrypt else key_wrap.unwrap, block, iv)
    return Collected(encrypt, lambda taken: -(-taken // 8) * 8 + 8 if encrypt else taken - 8, convert)


FORMS: dict[str, Callable[[Any, Any, bool], Cipher]] = {
    ECB: partial(Mode, mode=ECB),
    CBC: partial(Mode, mode=CBC),
    CBC_PAD: partial(Mode, mode=CBC, padded=True),
    CFB: partial(Mode, mode=CFB, stream=True),
    CTR: Counter,
    GCM: _gcm,
    CCM: _ccm,
    KEY_WRAP: _key_wrap,
    KEY_WRAP_PAD: partial(_key_wrap, padded=True),
}
