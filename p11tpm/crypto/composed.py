"""AES-GCM and AES-CCM made of ECB, CBC and CTR, for keys in the TPM, which has neither."""

from __future__ import annotations

from functools import partial

from p11tpm.crypto.gcm import Ghash
from p11tpm.crypto.hashes import compare_digest
from p11tpm.crypto.modes import Collected, GcmEncrypt, ccm, check_gcm, invalid, length_error
from p11tpm.mechanism import CBC, CCM, CTR, ECB, GCM
from p11tpm.parameter import AES_BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from p11tpm.crypto.block import BlockCipher
    from p11tpm.crypto.cipher import Cipher


class _Stream:
    """CTR from the block after `first` on, whose last 32 bits count, and begin again at 0 (SP 800-38D, clause 6.2)."""

    def __init__(self, cipher: BlockCipher, first: bytes, encrypt: bool) -> None:
        self._begin = partial(cipher.context, CTR, encrypt=encrypt)
        self._nonce = first[:12]
        count = (int.from_bytes(first[12:], "big") + 1) % (1 << 32)
        self._left = ((1 << 32) - count) * AES_BLOCK  # bytes until the counter begins again
        self._context = self._begin(self._nonce + count.to_bytes(4, "big"))

    def update(self, part: bytes) -> bytes:
        """Encrypt or decrypt the next bytes."""
        left, self._left = self._left, self._left - len(part)
        if not 0 <= left < len(part):
            return self._context.update(part)
        before = self._context.update(part[:left])
        self._context = self._begin(self._nonce + bytes(4))
        return before + self._context.update(part[left:])


class _Gcm:
    """One message of GCM (SP 800-38D, clauses 7.1 and 7.2)."""

    def __init__(self, cipher: BlockCipher, params: Any, encrypt: bool) -> None:
        check_gcm(params)
        self._cipher = cipher
        self._subkey = cipher.context(ECB).update(bytes(AES_BLOCK))
        self._first = params.nonce + b"\0\0\0\1"
        if len(params.nonce) != 12:
            self._first = Ghash(self._subkey).update(params.nonce).finish(0, len(params.nonce))
        self.stream = _Stream(cipher, self._first, encrypt)
        self._associated: bytes = params.associated
        self._hash = Ghash(self._subkey).update(self._associated).pad()
        self._tag_length: int = params.tag_length
        self._length = 0

    def authenticate(self, encrypted: bytes) -> None:
        """Process the next encrypted bytes."""
        self._hash.update(encrypted)
        self._length += len(encrypted)

    def tag(self) -> bytes:
        """Return the tag of all that was encrypted."""
        code = self._hash.finish(len(self._associated), self._length)
        return self._cipher.context(CTR, self._first).update(code)[: self._tag_length]


class _GcmComposed(GcmEncrypt):
    """GCM of these parts."""

    def __init__(self, cipher: BlockCipher, params: Any) -> None:
        super().__init__(params)
        self._gcm = _Gcm(cipher, params, encrypt=True)

    def _step(self, part: bytes) -> bytes:
        encrypted = self._gcm.stream.update(part)
        self._gcm.authenticate(encrypted)
        return encrypted

    def finish(self) -> bytes:
        """Return what is left."""
        return self._gcm.tag()


def _gcm(cipher: BlockCipher, params: Any, encrypt: bool) -> Cipher:
    if encrypt:
        return _GcmComposed(cipher, params)
    check_gcm(params)
    tag_length: int = params.tag_length

    def decrypt(message: bytes) -> bytes:
        if len(message) < tag_length:
            raise length_error(encrypt=False)
        encrypted, tag = message[:-tag_length], message[-tag_length:]
        gcm = _Gcm(cipher, params, encrypt=False)
        gcm.authenticate(encrypted)
        if not compare_digest(gcm.tag(), tag):
            raise invalid()
        return gcm.stream.update(encrypted)

    return Collected(encrypt, lambda taken: taken - tag_length, decrypt)


def _ccm(cipher: BlockCipher, params: Any, encrypt: bool) -> Cipher:
    """Make CCM (SP 800-38C, clause 6), its blocks formatted as in appendix A.2 and A.3."""
    nonce, tag_length = params.nonce, params.tag_length
    size = 15 - len(nonce)  # bytes of a length or a counter

    def code(data: bytes) -> bytes:
        flags = (64 if params.associated else 0) + (tag_length - 2) // 2 * 8 + size - 1
        start = bytes((flags,)) + nonce + len(data).to_bytes(size, "big")
        blocks = b"".join(map(_filled, (start, _announced(params.associated), data)))
        return cipher.context(CBC, bytes(AES_BLOCK)).update(blocks)[-AES_BLOCK:]

    def convert(message: bytes) -> bytes:
        stream = cipher.context(CTR, bytes((size - 1,)) + nonce + bytes(size), encrypt=encrypt)
        if encrypt:
            both = stream.update(code(message) + message)
            return both[AES_BLOCK:] + both[:tag_length]
        data, tag = message[: len(message) - tag_length], message[len(message) - tag_length :]
        both = stream.update(bytes(AES_BLOCK) + data)
        plain, mask = both[AES_BLOCK:], both[:tag_length]
        right = bytes(a ^ b for a, b in zip(code(plain), mask, strict=False))
        if not compare_digest(right, tag):
            raise invalid()
        return plain

    return ccm(params, encrypt, convert)


def _filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % AES_BLOCK)


def _announced(associated: bytes) -> bytes:
    """Put the length before associated data (SP 800-38C, appendix A.2.2)."""
    length = len(associated)
    if not length:
        return b""
    return (length.to_bytes(2, "big") if length < 0xFF00 else b"\xff\xfe" + length.to_bytes(4, "big")) + associated


FORMS: dict[str, Callable[[Any, Any, bool], Cipher]] = {GCM: _gcm, CCM: _ccm}
