"""A private key over a prime, DSA or DH, from outside: a secret of the token in software."""

from __future__ import annotations

from p11tpm import attribute
from p11tpm.attribute import DOMAINS, FALSE, Template, to_ulong, ulong, unsigned
from p11tpm.ck import CKA, CKK, CKO, CKR
from p11tpm.core.key_material import KeyMaterial
from p11tpm.crypto import der
from p11tpm.crypto.domain import Domain
from p11tpm.error import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.token import Token


class SoftKey:
    """A private key that a host describes by its numbers."""

    def __init__(self, template: Template, how: str) -> None:
        """Check the template, which has the numbers.

        Raises the codes of `attribute.complete`, CKR_KEY_SIZE_RANGE and CKR_DOMAIN_PARAMS_INVALID for the domain
        parameters, and CKR_ATTRIBUTE_VALUE_INVALID for a private value that is not of them.
        """
        key_type = to_ulong(template[CKA.KEY_TYPE])
        self.attributes = attribute.complete(template, CKO.PRIVATE_KEY, key_type, how)
        domain = Domain(key_type, self.attributes)
        domain.check()
        private = int.from_bytes(self.attributes.pop(CKA.VALUE), "big")
        if not 1 <= private < domain.order:
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_VALUE is not a private value of these domain parameters")
        self._secret = unsigned(private)
        public = {type_: self.attributes[type_] for type_ in DOMAINS[key_type]}
        public[CKA.VALUE] = unsigned(domain.public_value(private))
        self.attributes |= der.domain_public(key_type, public)
        if key_type == CKK.DH:
            self.attributes[CKA.VALUE_BITS] = ulong(private.bit_length())
        self.attributes |= attribute.of_created_key()
        self.attributes |= {CKA.ALWAYS_SENSITIVE: FALSE, CKA.NEVER_EXTRACTABLE: FALSE}

    def add(self, token: Token, session: int) -> int:
        """Add the key to the token and give its identifier."""
        return token.objects.add(self.attributes, session, KeyMaterial(self._secret))
