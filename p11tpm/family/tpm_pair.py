"""A key pair whose private half the TPM makes and keeps."""

from __future__ import annotations

from abc import abstractmethod

from p11tpm.family.pair import KeyPair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.core.key_material import KeyMaterial
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism


class TpmPair(KeyPair):
    """A key pair in the TPM."""

    def __init__(self, row: Mechanism, public: Template, private: Template, capabilities: tuple[str, ...]) -> None:
        """Check both templates; raises the codes of `attribute.complete` and of `_tpm_template`."""
        super().__init__(row, public, private)
        self._template = self._tpm_template(capabilities)

    @abstractmethod
    def _tpm_template(self, capabilities: tuple[str, ...]) -> bytes:
        """Return the TPMT_PUBLIC that the TPM makes the key by."""

    @abstractmethod
    def _described_made(self, public: bytes) -> tuple[Template, Template]:
        """Return both templates with the numbers of the public key, which are in its TPMT_PUBLIC."""

    def make(self, token: Token) -> tuple[Template, Template, KeyMaterial]:
        """Generate the pair in the TPM."""
        material = token.tpm.create(self._template)
        return *self._described_made(material.tpm_public), material
