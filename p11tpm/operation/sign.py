"""Signatures (clause 5.13)."""

from __future__ import annotations

import hashlib

from p11tpm import padding
from p11tpm.ck import CKA, CKF, CKK, CKO, CKR, name
from p11tpm.error import Error
from p11tpm.mechanism import CURVES, ECDSA, PSS, Mechanism, curve_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.object import Object
    from p11tpm.parameter import Given
    from p11tpm.token import Token


class Sign:
    """A signature in the making (clause 5.13)."""

    def __init__(self, token: Token, key: Object, given: Given) -> None:
        """Check that the key may sign with the mechanism.

        Raises CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID, CKR_KEY_TYPE_INCONSISTENT,
        CKR_KEY_FUNCTION_NOT_PERMITTED.
        """
        self._mechanism = token.mechanism(given.type, CKF.SIGN)
        self._params = self._mechanism.params(given)
        check_use(key, self._mechanism, CKA.SIGN)
        self._token = token
        self._key = key
        self._parts: hashlib._Hash | None = None
        if key.key_type == CKK.RSA:
            self._bits = int.from_bytes(key.get(CKA.MODULUS), "big").bit_length()
            self.size = (self._bits + 7) // 8
        else:
            self._bits = CURVES[curve_of(key.get(CKA.EC_PARAMS))][0]
            self.size = 2 * ((self._bits + 7) // 8)

    def update(self, part: bytes) -> None:
        """Take the next part of the data; only mechanisms that hash take parts: CKR_FUNCTION_NOT_SUPPORTED."""
        if self._mechanism.digest is None:
            raise Error(CKR.FUNCTION_NOT_SUPPORTED, "this mechanism signs in one part")
        if self._parts is None:
            self._parts = hashlib.new(self._mechanism.digest)
        self._parts.update(part)

    def sign(self, data: bytes) -> bytes:
        """Sign data in one part; CKR_OPERATION_NOT_INITIALIZED after C_SignUpdate."""
        if self._parts is not None:
            raise Error(CKR.OPERATION_NOT_INITIALIZED, "an operation of several parts ends with C_SignFinal")
        digest = self._mechanism.digest
        return self._sign(data if digest is None else hashlib.new(digest, data).digest())

    def finish(self) -> bytes:
        """Sign the parts; CKR_FUNCTION_NOT_SUPPORTED if the mechanism takes none."""
        digest = self._mechanism.digest
        if digest is None:
            raise Error(CKR.FUNCTION_NOT_SUPPORTED, "this mechanism signs in one part")
        return self._sign((self._parts or hashlib.new(digest)).digest())

    def _sign(self, hashed: bytes) -> bytes:
        """Bring hash or data into the mechanism's form and let the TPM sign it."""
        if self._mechanism.form == ECDSA:
            pair = self._token.vault.ecdsa(self._key, padding.ecdsa(hashed, self._bits))
            return b"".join(number.to_bytes(self.size // 2, "big") for number in pair)
        params = self._params
        if self._mechanism.form == PSS and params is not None:
            block = padding.pss(hashed, self._bits, params.digest, params.mask, params.salt_length)
        else:
            prefix = padding.DIGEST_INFO[self._mechanism.digest] if self._mechanism.digest else b""
            block = padding.pkcs1(prefix + hashed, self.size)
        return self._token.vault.rsa(self._key, block.rjust(self.size, b"\x00"))


def check_use(key: Object, row: Mechanism, usage: int) -> None:
    """Refuse a key that is not for this mechanism, or that its owner does not allow it for.

    Raises CKR_KEY_TYPE_INCONSISTENT, CKR_KEY_FUNCTION_NOT_PERMITTED, CKR_MECHANISM_INVALID (CKA_ALLOWED_MECHANISMS).
    """
    if key.object_class != CKO.PRIVATE_KEY or key.key_type not in row.keys:
        raise Error(CKR.KEY_TYPE_INCONSISTENT, f"{row.name} does not work with such a key")
    if not key.is_set(usage):
        raise Error(CKR.KEY_FUNCTION_NOT_PERMITTED, f"the key's {name(CKA, usage)} is false")
    allowed = key.attributes.get(CKA.ALLOWED_MECHANISMS)
    if allowed and row.type not in {int.from_bytes(allowed[at : at + 8], "little") for at in range(0, len(allowed), 8)}:
        raise Error(CKR.MECHANISM_INVALID, f"the key's CKA_ALLOWED_MECHANISMS does not have {row.name}")
