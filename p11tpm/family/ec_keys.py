"""How EC keys come to be: made by the TPM, made in software for as long as a session, or from their numbers."""

from __future__ import annotations

from p11tpm.ck import CKA, CKR
from p11tpm.core.key_material import KeyMaterial
from p11tpm.crypto import der
from p11tpm.crypto.public import ec_curve
from p11tpm.error import Error
from p11tpm.family import placement
from p11tpm.family.tpm_pair import TpmPair
from p11tpm.host.imports import Late
from p11tpm.mechanism import curve_of
from p11tpm.tpm import template as tpm_template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from p11tpm.attribute import Template
    from p11tpm.core.token import Token
    from p11tpm.family import private_key
    from p11tpm.mechanism import Mechanism
else:
    ec = Late("cryptography.hazmat.primitives.asymmetric.ec")
    private_key = Late("p11tpm.family.private_key")


def pair(token: Token, row: Mechanism, public: Template, private: Template) -> EcPair:
    """Return the pair that two templates ask for; see `EcPair` for the errors."""
    kind = ExtractableEcPair if placement.in_software(private) else EcPair
    return kind(row, public, private, token.capabilities)


class EcPair(TpmPair):
    """A key pair on a curve in the TPM; raises CKR_CURVE_NOT_SUPPORTED for what the TPM does not have."""

    def _tpm_template(self, capabilities: tuple[str, ...]) -> bytes:
        self._curve = curve_of(self.public[CKA.EC_PARAMS])
        if self._curve not in capabilities:
            raise Error(CKR.CURVE_NOT_SUPPORTED, f"this TPM does not have the curve {self._curve}")
        return tpm_template.ec(self._curve)

    def _described_made(self, public: bytes) -> tuple[Template, Template]:
        return self._described_point(*tpm_template.ec_point(public))

    def _described_point(self, x: int, y: int) -> tuple[Template, Template]:
        public = der.ec_public(self._curve, x, y)
        return self._described(public, CKA.EC_POINT, CKA.EC_PARAMS, CKA.PUBLIC_KEY_INFO)


class ExtractableEcPair(EcPair):
    """A key pair whose private half may leave the token: a session object, on a curve that the TPM has (clause 4.9).

    The secret of such a key is its PKCS #8 DER, which is what C_WrapKey encrypts.
    """

    def make(self, _token: Token) -> tuple[Template, Template, KeyMaterial]:
        """Make the pair in software."""
        key = ec.generate_private_key(ec_curve(self._curve))
        point = key.public_key().public_numbers()
        return *self._described_point(point.x, point.y), KeyMaterial(private_key.pkcs8(key))
