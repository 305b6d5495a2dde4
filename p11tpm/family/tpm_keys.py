"""What RSA and EC have in common: private keys are in the TPM, and those that may leave it are kept as PKCS #8."""

from __future__ import annotations

from p11tpm.attribute import CREATE
from p11tpm.family.family import Family
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.core.key_material import KeyMaterial
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.crypto import der
    from p11tpm.family.private_key import PrivateKey
else:
    der = Late("p11tpm.crypto.der")


class TpmKeys(Family):
    """The families whose private keys the TPM has."""

    def private_key(self, template: Template, how: str) -> PrivateKey:
        """Return the private key that a template describes."""
        raise NotImplementedError

    def private_numbers(self, pkcs8: bytes) -> Template:
        """Return the numbers of a private key in PKCS #8 DER."""
        return der.private_numbers(pkcs8)

    def pkcs8(self, key: Object) -> bytes:
        """Return the PKCS #8 DER of a private key, which is how it is kept."""
        return key.leaving()

    def place(self, token: Token, attributes: Template, secret: bytes) -> KeyMaterial:
        """Place the copy of a private key in software: it may have to stay now."""
        return self.private_key(self.private_numbers(secret), CREATE).place(token, attributes)
