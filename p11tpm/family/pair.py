"""A key pair to be made: its two templates, checked and completed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

from p11tpm import attribute
from p11tpm.ck import CKA, CKO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.core.key_material import KeyMaterial
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism


class KeyPair(ABC):
    """What C_GenerateKeyPair was asked for (PKCS#11 Base Specification 3.0, clause 5.18.2)."""

    def __init__(self, row: Mechanism, public: Template, private: Template) -> None:
        """Check both templates; raises the codes of `attribute.complete`."""
        (self.key_type,) = row.keys
        self._given_id = CKA.ID in public or CKA.ID in private
        made = attribute.of_generated_key(row.type)
        self.public = attribute.complete(public, CKO.PUBLIC_KEY, self.key_type, attribute.GENERATE) | made
        self.private = attribute.complete(private, CKO.PRIVATE_KEY, self.key_type, attribute.GENERATE) | made
        self.private |= attribute.protection(self.private, was_sensitive=True, never_left=True)
        for one, given, other in ((self.public, public, private), (self.private, private, public)):
            if CKA.ID not in given and CKA.ID in other:
                one[CKA.ID] = other[CKA.ID]

    @abstractmethod
    def make(self, token: Token) -> tuple[Template, Template, KeyMaterial]:
        """Make the keys and return the attributes of both, those of the public key first, and the private key."""

    def _described(self, numbers: Template, name: int, *shared: int) -> tuple[Template, Template]:
        """Return both templates with the numbers of the public key, those of `shared` in the private one too.

        An identifier is added if there is none, the SHA-1 of the number that is the `name`: a name, not a safeguard.
        """
        public = self.public | numbers
        private = self.private | {type_: numbers[type_] for type_ in shared}
        if not self._given_id:
            public[CKA.ID] = private[CKA.ID] = hashlib.sha1(numbers[name], usedforsecurity=False).digest()
        return public, private
