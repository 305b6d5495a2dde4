"""RSA encryption, in software, and decryption (Current Mechanisms 3.0, clause 2.1).

The public operation is Python's own: libcrypto might be the host's, where an engine may have taken RSA over and come
back to this module.
"""

from __future__ import annotations

from abc import abstractmethod

from p11tpm.ck import CKA, CKR
from p11tpm.crypto import padding
from p11tpm.crypto.cipher import Cipher
from p11tpm.crypto.public import rsa_numbers, rsa_raw
from p11tpm.error import Error
from p11tpm.mechanism import OAEP, PKCS1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token


class Rsa(Cipher):
    """RSA takes its data in one part (clauses 2.1.6 to 2.1.8); `size` is the length of the modulus in bytes."""

    def __init__(self, key: Object, form: str, params: Any) -> None:
        super().__init__()
        self._form = form
        self._params = params
        self._modulus = int.from_bytes(key.get(CKA.MODULUS), "big")
        self.size = (self._modulus.bit_length() + 7) // 8

    @abstractmethod
    def whole(self, data: bytes) -> bytes:
        """Process all of the data."""

    def _given(self, _taken: int) -> int:
        raise _one_part()

    def _most(self, _taken: int) -> int:
        return self.size

    def _update(self, _part: bytes) -> bytes:
        raise _one_part()

    def finish(self) -> bytes:
        """Refuse: there were no parts."""
        raise _one_part()


def _one_part() -> Error:
    return Error(CKR.FUNCTION_NOT_SUPPORTED, "RSA takes its data in one part")


class RsaEncrypt(Rsa):
    """Encryption with a public key: no login, no TPM."""

    def __init__(self, key: Object, form: str, params: Any) -> None:
        super().__init__(key, form, params)
        rsa_numbers(key)  # refused now if they are of no size for RSA
        self._key = key

    def whole(self, data: bytes) -> bytes:
        """Pad and encrypt; CKR_DATA_LEN_RANGE for too many bytes, CKR_DATA_INVALID for a number beyond the modulus."""
        encrypted = rsa_raw(self._key, self._padded(data).rjust(self.size, b"\0"))
        if encrypted is None:
            raise Error(CKR.DATA_INVALID, "as a number, the data are greater than the modulus")
        return encrypted

    def _padded(self, data: bytes) -> bytes:
        if self._form == PKCS1:
            return padding.pkcs1_cipher(data, self.size)
        if self._form == OAEP:
            return padding.oaep(data, self.size, self._params.digest, self._params.mask, self._params.label)
        if len(data) > self.size:
            raise Error(CKR.DATA_LEN_RANGE, f"a key of this size encrypts at most {self.size} bytes")
        return data


class RsaDecrypt(Rsa):
    """Decryption with a private key; the padding is removed here."""

    def __init__(self, token: Token, key: Object, form: str, params: Any) -> None:
        super().__init__(key, form, params)
        self._token = token
        self._key = key

    def whole(self, data: bytes) -> bytes:
        """Decrypt, with one TPM command if the key is there.

        Raises CKR_ENCRYPTED_DATA_LEN_RANGE for data that have not the length of the modulus, and
        CKR_ENCRYPTED_DATA_INVALID whatever else is wrong with them.
        """
        if len(data) != self.size:
            raise Error(CKR.ENCRYPTED_DATA_LEN_RANGE, f"a key of this size decrypts {self.size} bytes")
        if int.from_bytes(data, "big") >= self._modulus:
            raise Error(CKR.ENCRYPTED_DATA_INVALID, "as a number, the data are greater than the modulus")
        block = self._token.user_of(self._key).rsa(self._key, data)
        if self._form == PKCS1:
            return padding.pkcs1_plain(block)
        if self._form == OAEP:
            return padding.oaep_plain(block, self._params.digest, self._params.mask, self._params.label)
        return block

    def _most(self, _taken: int) -> int:
        """Return the room that the padding leaves."""
        if self._form == PKCS1:
            return self.size - padding.PKCS1_LEAST
        if self._form == OAEP:
            return self.size - padding.oaep_least(self._params.digest)
        return self.size
