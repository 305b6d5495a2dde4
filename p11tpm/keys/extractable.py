"""RSA and EC private keys that may leave the token: session objects, made in software (clause 4.9).

The secret of such a key is its PKCS #8 DER, which is what C_WrapKey encrypts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from p11tpm.attribute import to_ulong
from p11tpm.ck import CKA, CKK
from p11tpm.core.key_material import KeyMaterial
from p11tpm.crypto.public import ec_curve
from p11tpm.keys.tpm_pair import TpmPair
from p11tpm.mechanism import curve_of

if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.core.token import Token


def pkcs8(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """Encode a private key as a PrivateKeyInfo (RFC 5208)."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())


class ExtractablePair(TpmPair):
    """A key pair whose private half may leave the token: of the sizes and curves that the TPM has, but in software."""

    def make(self, _token: Token) -> tuple[Template, Template, KeyMaterial]:
        """Make the pair in software."""
        if self.key_type == CKK.RSA:
            exponent = int.from_bytes(self.public[CKA.PUBLIC_EXPONENT], "big")
            key = rsa.generate_private_key(exponent, to_ulong(self.public[CKA.MODULUS_BITS]))
            numbers = key.public_key().public_numbers()
            return *self._described_pair(numbers.n, numbers.e), KeyMaterial(pkcs8(key))
        curve_key = ec.generate_private_key(ec_curve(curve_of(self.public[CKA.EC_PARAMS])))
        point = curve_key.public_key().public_numbers()
        return *self._described_pair(point.x, point.y), KeyMaterial(pkcs8(curve_key))
