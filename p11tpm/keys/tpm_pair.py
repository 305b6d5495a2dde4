"""A key pair of RSA or on a curve, whose private half the TPM makes and keeps."""

from __future__ import annotations

from p11tpm.attribute import Template, to_ulong
from p11tpm.ck import CKA, CKK, CKR
from p11tpm.crypto import der
from p11tpm.error import Error
from p11tpm.keys.pair import KeyPair
from p11tpm.mechanism import curve_of
from p11tpm.tpm import template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.key_material import KeyMaterial
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism

_EXPONENT = b"\x01\x00\x01"  # the one that every TPM has


class TpmPair(KeyPair):
    """A key pair in the TPM."""

    def __init__(self, row: Mechanism, public: Template, private: Template, capabilities: tuple[str, ...]) -> None:
        """Check both templates.

        Raises the codes of `attribute.complete`, CKR_KEY_SIZE_RANGE or CKR_CURVE_NOT_SUPPORTED for what the TPM does
        not have, and CKR_TEMPLATE_INCONSISTENT for a public exponent other than 65537 (Current Mechanisms 3.0, 2.1.4).
        """
        super().__init__(row, public, private)
        self._template = self._rsa(capabilities) if self.key_type == CKK.RSA else self._ec(capabilities)

    def _rsa(self, capabilities: tuple[str, ...]) -> bytes:
        bits = to_ulong(self.public[CKA.MODULUS_BITS])
        if f"rsa{bits}" not in capabilities:
            raise Error(CKR.KEY_SIZE_RANGE, f"this TPM makes no RSA keys of {bits} bits")
        if self.public[CKA.PUBLIC_EXPONENT].lstrip(b"\x00") != _EXPONENT:
            raise Error(CKR.TEMPLATE_INCONSISTENT, "the public exponent of a TPM's keys is 65537")
        return template.rsa(bits)

    def _ec(self, capabilities: tuple[str, ...]) -> bytes:
        curve = curve_of(self.public[CKA.EC_PARAMS])
        if curve not in capabilities:
            raise Error(CKR.CURVE_NOT_SUPPORTED, f"this TPM does not have the curve {curve}")
        return template.ec(curve)

    def make(self, token: Token) -> tuple[Template, Template, KeyMaterial]:
        """Generate the pair in the TPM."""
        material = token.tpm.create(self._template)
        find = template.rsa_numbers if self.key_type == CKK.RSA else template.ec_point
        return *self._described_pair(*find(material.tpm_public)), material

    def _described_pair(self, *numbers: int) -> tuple[Template, Template]:
        """Return both templates with the public key: modulus and exponent, or the coordinates of the point."""
        if self.key_type == CKK.RSA:
            public = der.rsa_public(*numbers)
            return self._described(public, CKA.MODULUS, CKA.MODULUS, CKA.PUBLIC_EXPONENT, CKA.PUBLIC_KEY_INFO)
        x, y = numbers
        public = der.ec_public(curve_of(self.public[CKA.EC_PARAMS]), x, y)
        return self._described(public, CKA.EC_POINT, CKA.EC_PARAMS, CKA.PUBLIC_KEY_INFO)
