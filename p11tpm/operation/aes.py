"""AES in software: one class for each family of modes, one row for each mode (Current Mechanisms 3.0, 2.9 to 2.16).

Its modes are those of NIST SP 800-38A, C (CCM), D (GCM) and F (key wrapping), by OpenSSL.
"""

from __future__ import annotations

from functools import partial

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as Making
from cryptography.hazmat.primitives.ciphers import CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.padding import PKCS7

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.mechanism import CBC, CBC_PAD, CCM, CFB, CTR, ECB, GCM, KEY_WRAP, KEY_WRAP_PAD
from p11tpm.operation import gcm, keywrap
from p11tpm.operation.cipher import Cipher
from p11tpm.parameter import refused

try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB as CFB_MODE  # from version 46 on
except ImportError:
    from cryptography.hazmat.primitives.ciphers.modes import CFB as CFB_MODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from p11tpm.object import Object

_BLOCK = 16  # bytes
_MOST_COLLECTED = 1 << 30  # bytes of a message that is kept until all of it is there
_MOST_GCM = (1 << 36) - 32  # bytes: SP 800-38D, clause 5.2.1.1
_LEAST_TAG = 4  # bytes: SP 800-38D, clause 5.2.1.2; a shorter one is guessed too soon


def aes(key: Object, form: str, params: Any, *, encrypt: bool) -> Cipher:
    """Make what encrypts or decrypts by AES, in a form of the table of mechanisms with its decoded parameter.

    The only place that knows where the key is: here it is a value in memory.
    """
    return FORMS[form](key.secret(), params, encrypt)


def _context(value: bytes, mode: Any, encrypt: bool) -> CipherContext:
    making = Making(algorithms.AES(value), mode)
    return making.encryptor() if encrypt else making.decryptor()


def _length_error(encrypt: bool) -> Error:
    rv = CKR.DATA_LEN_RANGE if encrypt else CKR.ENCRYPTED_DATA_LEN_RANGE
    return Error(rv, "the mechanism does not take data of this length")


def _invalid() -> Error:
    return Error(CKR.ENCRYPTED_DATA_INVALID, "these data were not encrypted like this, or were changed")


class Mode(Cipher):
    """ECB, CBC and CFB: blocks of `unit` bytes, the last one padded or not."""

    def __init__(
        self,
        value: bytes,
        params: Any,
        encrypt: bool,
        *,
        mode: Callable[[Any], Any],
        unit: int = _BLOCK,
        padded: bool = False,
    ) -> None:
        super().__init__()
        self._encrypt = encrypt
        self._unit = unit
        self._context = _context(value, mode(params), encrypt)
        padding = PKCS7(8 * _BLOCK)
        self._pad = padding.padder() if padded and encrypt else None
        self._unpad = padding.unpadder() if padded and not encrypt else None

    def _given(self, taken: int) -> int:
        blocks = taken // self._unit * self._unit
        return blocks if self._unpad is None else max(0, blocks - _BLOCK)  # the last block may be padding

    def _most(self, taken: int) -> int:
        return taken if self._pad is None else (taken // _BLOCK + 1) * _BLOCK

    def _update(self, part: bytes) -> bytes:
        if self._pad is not None:
            return self._context.update(self._pad.update(part))
        plain = self._context.update(part)
        return plain if self._unpad is None else self._unpad.update(plain)

    def finish(self) -> bytes:
        """Give what is left."""
        if self._pad is not None:
            return self._context.update(self._pad.finalize()) + self._context.finalize()
        if self.taken % self._unit or (self._unpad is not None and not self.taken):
            raise _length_error(self._encrypt)
        last = self._context.finalize()
        if self._unpad is None:
            return last
        try:
            return self._unpad.update(last) + self._unpad.finalize()
        except ValueError:
            raise _invalid() from None


class Counter(Cipher):
    """CTR: a counter of some bits at the end of the block, which begins again at 0 when it is at its end.

    After as many blocks as it has values the next one would be encrypted as the first was: no more than these.
    """

    def __init__(self, value: bytes, params: Any, encrypt: bool) -> None:
        super().__init__()
        self._encrypt = encrypt
        values: int = 1 << params.bits
        block = int.from_bytes(params.block, "big")
        self._room = (values - block % values) * _BLOCK  # bytes until the counter begins again
        self._all = values * _BLOCK
        self._context = _context(value, modes.CTR(params.block), encrypt)
        again = (block - block % values).to_bytes(_BLOCK, "big")
        self._again = partial(_context, value, modes.CTR(again), encrypt)

    def _given(self, taken: int) -> int:
        return taken

    _most = _given

    def _update(self, part: bytes) -> bytes:
        if self.taken + len(part) > self._all:
            raise _length_error(self._encrypt)
        left = self._room - self.taken
        if not 0 <= left < len(part):
            return self._context.update(part)
        before = self._context.update(part[:left])
        self._context = self._again()
        return before + self._context.update(part[left:])

    def finish(self) -> bytes:
        """Give what is left."""
        return self._context.finalize()


def _gcm_nonce(value: bytes, params: Any) -> bytes:
    nonce: bytes = params.nonce
    if params.tag_length < _LEAST_TAG:
        raise refused(f"AES-GCM needs a tag of {8 * _LEAST_TAG} bits at least")
    if 8 <= len(nonce) <= 128:  # what OpenSSL takes
        return nonce
    return gcm.equivalent(nonce, _context(value, modes.ECB(), encrypt=True).update(bytes(_BLOCK)))  # noqa: S305


class GcmEncrypt(Cipher):
    """GCM, encrypting: the tag comes last."""

    def __init__(self, value: bytes, params: Any) -> None:
        super().__init__()
        self._tag_length: int = params.tag_length
        self._context = Making(algorithms.AES(value), modes.GCM(_gcm_nonce(value, params))).encryptor()
        self._context.authenticate_additional_data(params.associated)

    def _given(self, taken: int) -> int:
        return taken

    def _most(self, taken: int) -> int:
        return taken + self._tag_length

    def _update(self, part: bytes) -> bytes:
        if self.taken + len(part) > _MOST_GCM:
            raise _length_error(encrypt=True)
        return self._context.update(part)

    def finish(self) -> bytes:
        """Give what is left."""
        return self._context.finalize() + self._context.tag[: self._tag_length]


class Collected(Cipher):
    """What needs the whole message before it gives anything: `convert` turns it into the result.

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
            raise _length_error(self._encrypt)
        self._parts.append(part)
        return b""

    def finish(self) -> bytes:
        """Give what is left."""
        message, self._parts = b"".join(self._parts), []
        return self._convert(message)


def _gcm(value: bytes, params: Any, encrypt: bool) -> Cipher:
    """Make GCM; what it decrypts is not given before the tag was seen to be right (SP 800-38D, clause 7.2)."""
    if encrypt:
        return GcmEncrypt(value, params)
    nonce, tag_length = _gcm_nonce(value, params), params.tag_length

    def decrypt(message: bytes) -> bytes:
        if len(message) < tag_length:
            raise _length_error(encrypt=False)
        mode = modes.GCM(nonce, message[-tag_length:], min_tag_length=_LEAST_TAG)
        context = Making(algorithms.AES(value), mode).decryptor()
        context.authenticate_additional_data(params.associated)
        plain = context.update(message[:-tag_length])
        try:
            return plain + context.finalize()
        except InvalidTag:
            raise _invalid() from None

    return Collected(encrypt, lambda taken: taken - tag_length, decrypt)


def _ccm(value: bytes, params: Any, encrypt: bool) -> Cipher:
    """Make CCM, which needs to know the length of the data beforehand: it must be what was announced."""
    length, tag_length = params.length, params.tag_length
    if length >> 8 * (15 - len(params.nonce)):
        raise refused("AES-CCM with a nonce of this length does not take data of the length that is announced")
    making = AESCCM(value, tag_length)

    def convert(message: bytes) -> bytes:
        if len(message) != length + (0 if encrypt else tag_length):
            raise _length_error(encrypt)
        try:
            return (making.encrypt if encrypt else making.decrypt)(params.nonce, message, params.associated)
        except InvalidTag:
            raise _invalid() from None

    return Collected(encrypt, lambda taken: taken + (tag_length if encrypt else -tag_length), convert)


def _key_wrap(value: bytes, params: Any, encrypt: bool, *, padded: bool = False) -> Cipher:
    iv = keywrap.initial(params.iv, padded=padded)
    block = _context(value, modes.ECB(), encrypt).update  # noqa: S305 - what key wrapping is made of
    if padded:
        convert = partial(keywrap.wrap_padded if encrypt else keywrap.unwrap_padded, block, iv)
    else:
        convert = partial(keywrap.wrap if encrypt else keywrap.unwrap, block, iv)
    return Collected(encrypt, lambda taken: -(-taken // 8) * 8 + 8 if encrypt else taken - 8, convert)


FORMS: dict[str, Callable[[bytes, Any, bool], Cipher]] = {
    ECB: partial(Mode, mode=lambda _: modes.ECB()),  # noqa: S305 - the host's choice
    CBC: partial(Mode, mode=lambda params: modes.CBC(params.iv)),
    CBC_PAD: partial(Mode, mode=lambda params: modes.CBC(params.iv), padded=True),
    CFB: partial(Mode, mode=lambda params: CFB_MODE(params.iv), unit=1),
    CTR: Counter,
    GCM: _gcm,
    CCM: _ccm,
    KEY_WRAP: _key_wrap,
    KEY_WRAP_PAD: partial(_key_wrap, padded=True),
}
