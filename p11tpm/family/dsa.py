"""DSA in software (FIPS 186-4, clause 4; Current Mechanisms 3.0, clause 2.2)."""

from __future__ import annotations

from p11tpm.algorithm import HASHES, constants
from p11tpm.ck import CKA, CKK, CKM, CKR
from p11tpm.crypto.message import Message
from p11tpm.crypto.public import dsa_key, prehashed
from p11tpm.error import Error
from p11tpm.family.domain import OverPrime
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cryptography import exceptions
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, utils
    from cryptography.hazmat.primitives.asymmetric.dsa import DSAPrivateKey

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism
else:
    exceptions = Late("cryptography.exceptions")
    dsa = Late("cryptography.hazmat.primitives.asymmetric.dsa")
    utils = Late("cryptography.hazmat.primitives.asymmetric.utils")
    serialization = Late("cryptography.hazmat.primitives.serialization")


_SIZES = {HASHES[name].size for name in constants(CKM, "DSA_*")}  # bytes of what CKM_DSA takes


class _DsaSignature:
    """What signing and verifying have in common. `size`: bytes of a signature, r and s side by side."""

    __slots__ = ("_half", "_key", "_row", "message", "size")

    def __init__(self, _token: Token, key: Object, row: Mechanism, _params: Any) -> None:
        self._key = key
        self._row = row
        self._half = (int.from_bytes(key.get(CKA.SUBPRIME), "big").bit_length() + 7) // 8
        self.message = Message.hashed(row.digest)
        self.size = 2 * self._half

    def _fit(self, data: bytes) -> bytes:
        """Shorten a hash to the length of the subprime: its leftmost bytes, or as the number that it is.

        Raises CKR_DATA_LEN_RANGE where the host gives what can be no hash (clause 2.2).
        """
        if self._row.digest is None and len(data) not in _SIZES:
            raise Error(CKR.DATA_LEN_RANGE, "CKM_DSA signs a hash of 20, 28, 32, 48 or 64 bytes")
        return data[: self._half].rjust(self._half, b"\x00")


class DsaSigner(_DsaSignature):
    """Signs with a private key of the token."""

    __slots__ = ("_token",)

    def __init__(self, token: Token, key: Object, row: Mechanism, params: Any) -> None:
        super().__init__(token, key, row, params)
        self._token = token

    def sign(self, data: bytes) -> bytes:
        """Sign a hash."""
        fitting = self._fit(data)
        pair = utils.decode_dss_signature(self._private().sign(fitting, prehashed(self._half)))
        return b"".join(number.to_bytes(self._half, "big") for number in pair)

    def _private(self) -> DSAPrivateKey:
        public = serialization.load_der_public_key(self._key.get(CKA.PUBLIC_KEY_INFO))
        if not isinstance(public, dsa.DSAPublicKey):
            raise Error(CKR.DEVICE_ERROR, "the public half of a DSA key is none")
        private = int.from_bytes(self._token.tpm.secret_of(self._key), "big")
        return dsa.DSAPrivateNumbers(private, public.public_numbers()).private_key()


class DsaVerifier(_DsaSignature):
    """Verifies with a public key."""

    __slots__ = ("_public",)

    def __init__(self, token: Token, key: Object, row: Mechanism, params: Any) -> None:
        super().__init__(token, key, row, params)
        self._public = dsa_key(key)

    def check(self, data: bytes, signature: bytes) -> bool:
        """Return whether the signature is that of a hash."""
        r, s = (int.from_bytes(number, "big") for number in (signature[: self._half], signature[self._half :]))
        try:
            self._public.verify(utils.encode_dss_signature(r, s), self._fit(data), prehashed(self._half))
        except exceptions.InvalidSignature:
            return False
        return True


class Dsa(OverPrime):
    """DSA."""

    signer = DsaSigner
    verifier = DsaVerifier


FAMILY = Dsa(CKK.DSA)
