"""A key pair whose private half the TPM makes and keeps."""

from __future__ import annotations

from abc import abstractmethod

from p11tpm.ck import CKA, CKR
from p11tpm.error import Error
from p11tpm.family import placement
from p11tpm.family.pair import KeyPair
from p11tpm.host.imports import Late
from p11tpm.tpm import template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.core.key_material import KeyMaterial
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism
    from p11tpm.tpm import state
else:
    state = Late("p11tpm.tpm.state")


class TpmPair(KeyPair):
    """A key pair in the TPM."""

    def __init__(self, row: Mechanism, public: Template, private: Template, capabilities: tuple[str, ...]) -> None:
        """Check both templates; raises the codes of `attribute.complete` and of `_tpm_template`.

        CKR_TEMPLATE_INCONSISTENT and CKR_ATTRIBUTE_VALUE_INVALID for a policy that the key cannot have.
        """
        super().__init__(row, public, private)
        self._template = self._tpm_template(capabilities)
        if CKA.P11TPM_POLICY in self.private:
            self._template = template.with_policy(self._template, self._policy(self.private[CKA.P11TPM_POLICY]))

    def _policy(self, text: bytes) -> bytes:
        """Return the digest of the policy in CKA_P11TPM_POLICY, which a key has for ever."""
        if placement.in_software(self.private):
            raise Error(CKR.TEMPLATE_INCONSISTENT, "a key that may leave the token has no policy")
        try:
            states = state.States.parse(text.decode())
        except Error:
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_P11TPM_POLICY cannot have this value") from None
        if states.pcrs:
            why = "a key is not bound to values of PCRs, which no update could change: bind its token"
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, why)
        (digest,) = states.digests(pin=True)
        return digest

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
