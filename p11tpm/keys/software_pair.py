"""A key pair over a prime, DSA or DH, which no TPM has: its private half is a secret of the token in software."""

from __future__ import annotations

from p11tpm.attribute import DOMAINS, TRUE, Template, to_ulong, ulong, unsigned
from p11tpm.ck import CKA, CKK, CKR
from p11tpm.core.key_material import KeyMaterial
from p11tpm.core.randomness import secret_bytes
from p11tpm.crypto import der
from p11tpm.crypto.domain import Domain
from p11tpm.error import Error
from p11tpm.keys.pair import KeyPair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism

_MORE = 8  # random bytes more than the number has, so that it is any number as likely: FIPS 186-5, appendix A.2.1
_LEAST_BITS = 160  # of a private value of DH: fewer are found by trying


class SoftPair(KeyPair):
    """A key pair of DSA or DH."""

    def __init__(self, row: Mechanism, public: Template, private: Template) -> None:
        """Check both templates.

        Raises the codes of `attribute.complete`, CKR_KEY_SIZE_RANGE and CKR_DOMAIN_PARAMS_INVALID for the numbers of
        the public one, CKR_ATTRIBUTE_VALUE_INVALID for a CKA_VALUE_BITS that does not go with them.
        """
        super().__init__(row, public, private)
        self._domain = Domain(self.key_type, self.public)
        self._domain.check()
        if self.key_type == CKK.DH:
            most = self._domain.prime.bit_length() - 1
            self._bits = to_ulong(self.private.get(CKA.VALUE_BITS, ulong(most)))
            if not _LEAST_BITS <= self._bits <= most:
                raise Error(CKR.ATTRIBUTE_VALUE_INVALID, f"CKA_VALUE_BITS is {_LEAST_BITS} to {most} over this prime")
            self.private[CKA.VALUE_BITS] = ulong(self._bits)

    def make(self, token: Token) -> tuple[Template, Template, KeyMaterial]:
        """Make the pair in software."""
        domain = self._domain
        value = secret_bytes(token, domain.size + _MORE, kept=self.private[CKA.TOKEN] == TRUE)
        number = int.from_bytes(value, "big")
        # PKCS #3, clause 7.1, of so many bits exactly; FIPS 186-4, appendix B.1.1
        private = number % (1 << self._bits - 1) + (1 << self._bits - 1) if self.key_type == CKK.DH else 0
        private = private or number % (domain.order - 1) + 1
        public = {type_: self.public[type_] for type_ in DOMAINS[self.key_type]}
        public[CKA.VALUE] = unsigned(domain.public_value(private))
        public |= der.domain_public(self.key_type, public)
        described = self._described(public, CKA.VALUE, CKA.PUBLIC_KEY_INFO, *DOMAINS[self.key_type])
        return *described, KeyMaterial(unsigned(private))
