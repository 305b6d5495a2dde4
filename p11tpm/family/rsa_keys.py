"""How RSA keys come to be: made by the TPM, made in software for as long as a session, or from their numbers."""

from __future__ import annotations

from p11tpm.attribute import Template, to_ulong
from p11tpm.ck import CKA, CKR
from p11tpm.core.key_material import KeyMaterial
from p11tpm.crypto import der
from p11tpm.error import Error
from p11tpm.family import placement
from p11tpm.family.tpm_pair import TpmPair
from p11tpm.host.imports import Late
from p11tpm.tpm import template as tpm_template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

    from p11tpm.core.token import Token
    from p11tpm.family import private_key
    from p11tpm.mechanism import Mechanism
else:
    rsa = Late("cryptography.hazmat.primitives.asymmetric.rsa")
    private_key = Late("p11tpm.family.private_key")

_EXPONENT = b"\x01\x00\x01"  # the one that every TPM has


def pair(token: Token, row: Mechanism, public: Template, private: Template) -> RsaPair:
    """Return the pair that two templates ask for; see `RsaPair` for the errors."""
    kind = ExtractableRsaPair if placement.in_software(private) else RsaPair
    return kind(row, public, private, token.capabilities)


def public_attributes(template: Template) -> Template:
    """Return what follows from modulus and exponent; CKR_ATTRIBUTE_VALUE_INVALID if they make no key."""
    modulus, exponent = (int.from_bytes(template[type_], "big") for type_ in (CKA.MODULUS, CKA.PUBLIC_EXPONENT))
    if modulus < 3 or exponent < 3:
        raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "this is not an RSA public key")
    return der.rsa_public(modulus, exponent)


class RsaPair(TpmPair):
    """A key pair of RSA in the TPM.

    Raises CKR_KEY_SIZE_RANGE for what the TPM does not have, and CKR_TEMPLATE_INCONSISTENT for a public exponent other
    than 65537 (Current Mechanisms 3.0, clause 2.1.4).
    """

    def _tpm_template(self, capabilities: tuple[str, ...]) -> bytes:
        bits = to_ulong(self.public[CKA.MODULUS_BITS])
        if f"rsa{bits}" not in capabilities:
            raise Error(CKR.KEY_SIZE_RANGE, f"this TPM makes no RSA keys of {bits} bits")
        if self.public[CKA.PUBLIC_EXPONENT].lstrip(b"\x00") != _EXPONENT:
            raise Error(CKR.TEMPLATE_INCONSISTENT, "the public exponent of a TPM's keys is 65537")
        return tpm_template.rsa(bits)

    def _described_made(self, public: bytes) -> tuple[Template, Template]:
        return self._described_numbers(*tpm_template.rsa_numbers(public))

    def _described_numbers(self, modulus: int, exponent: int) -> tuple[Template, Template]:
        public = der.rsa_public(modulus, exponent)
        return self._described(public, CKA.MODULUS, CKA.MODULUS, CKA.PUBLIC_EXPONENT, CKA.PUBLIC_KEY_INFO)


class ExtractableRsaPair(RsaPair):
    """A key pair whose private half may leave the token: a session object, of a size that the TPM has (clause 4.9).

    The secret of such a key is its PKCS #8 DER, which is what C_WrapKey encrypts.
    """

    def make(self, _token: Token) -> tuple[Template, Template, KeyMaterial]:
        """Make the pair in software."""
        exponent = int.from_bytes(self.public[CKA.PUBLIC_EXPONENT], "big")
        key = rsa.generate_private_key(exponent, to_ulong(self.public[CKA.MODULUS_BITS]))
        numbers = key.public_key().public_numbers()
        return *self._described_numbers(numbers.n, numbers.e), KeyMaterial(private_key.pkcs8(key))
