"""Keys over a prime, DSA and DH, which no TPM has: private keys are secrets of the token in software."""

from __future__ import annotations

from p11tpm import attribute
from p11tpm.attribute import DOMAINS, TRUE, Template, to_ulong, ulong, unsigned
from p11tpm.ck import CKA, CKK, CKO, CKR
from p11tpm.core.key_material import KeyMaterial
from p11tpm.core.randomness import secret_bytes
from p11tpm.crypto import der, domain
from p11tpm.error import Error
from p11tpm.family.family import Family
from p11tpm.family.pair import KeyPair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism

_MORE = 8  # random bytes more than the number has, so that it is any number as likely: FIPS 186-5, appendix A.2.1
_LEAST_BITS = 160  # of a private value of DH: fewer are found by trying


class OverPrime(Family):
    """What the families of both key types have in common."""

    def __init__(self, key_type: int) -> None:
        self._key_type = key_type

    def generate(self, token: Token, _row: Mechanism, template: Template, session: int) -> int:
        """Make domain parameters and give their identifier."""
        attributes = attribute.complete(template, CKO.DOMAIN_PARAMETERS, self._key_type, attribute.GENERATE)
        token.require_writer(attributes)
        attributes |= domain.generated(self._key_type, to_ulong(attributes[CKA.PRIME_BITS])) | {CKA.LOCAL: TRUE}
        return token.objects.add(attributes, session)

    def pair(self, _token: Token, row: Mechanism, public: Template, private: Template) -> KeyPair:
        """Return the pair that two templates ask for."""
        return PrimePair(row, public, private)

    def public_attributes(self, template: Template) -> Template:
        """Return what follows from the numbers of a public key."""
        return der.domain_public(self._key_type, template)

    def private_key(self, template: Template, how: str) -> PrimeKey:
        """Return the private key that a template describes."""
        return PrimeKey(template, how)

    def private_numbers(self, pkcs8: bytes) -> Template:
        """Return the numbers of a private key in PKCS #8 DER."""
        return der.domain_numbers(pkcs8)

    def pkcs8(self, key: Object) -> bytes:
        """Return the PKCS #8 DER of a private key."""
        return der.domain_private(key.attributes, key.leaving())

    def place(self, _token: Token, _attributes: Template, secret: bytes) -> KeyMaterial:
        """Leave the copy of a private key in software."""
        return KeyMaterial(secret)


class PrimePair(KeyPair):
    """A key pair of DSA or DH."""

    def __init__(self, row: Mechanism, public: Template, private: Template) -> None:
        """Check both templates.

        Raises the codes of `attribute.complete`, CKR_KEY_SIZE_RANGE and CKR_DOMAIN_PARAMS_INVALID for the numbers of
        the public one, CKR_ATTRIBUTE_VALUE_INVALID for a CKA_VALUE_BITS that does not go with them.
        """
        super().__init__(row, public, private)
        self._domain = domain.Domain(self.key_type, self.public)
        self._domain.check()
        if self.key_type == CKK.DH:
            most = self._domain.prime.bit_length() - 1
            self._bits = to_ulong(self.private.get(CKA.VALUE_BITS, ulong(most)))
            if not _LEAST_BITS <= self._bits <= most:
                raise Error(CKR.ATTRIBUTE_VALUE_INVALID, f"CKA_VALUE_BITS is {_LEAST_BITS} to {most} over this prime")
            self.private[CKA.VALUE_BITS] = ulong(self._bits)

    def make(self, token: Token) -> tuple[Template, Template, KeyMaterial]:
        """Make the pair in software."""
        over = self._domain
        value = secret_bytes(token, over.size + _MORE, kept=self.private[CKA.TOKEN] == TRUE)
        number = int.from_bytes(value, "big")
        # PKCS #3, clause 7.1, of so many bits exactly; FIPS 186-4, appendix B.1.1
        private = number % (1 << self._bits - 1) + (1 << self._bits - 1) if self.key_type == CKK.DH else 0
        private = private or number % (over.order - 1) + 1
        public = {type_: self.public[type_] for type_ in DOMAINS[self.key_type]}
        public[CKA.VALUE] = unsigned(over.public_value(private))
        public |= der.domain_public(self.key_type, public)
        described = self._described(public, CKA.VALUE, CKA.PUBLIC_KEY_INFO, *DOMAINS[self.key_type])
        return *described, KeyMaterial(unsigned(private))


class PrimeKey:
    """A private key that a host describes by its numbers."""

    def __init__(self, template: Template, how: str) -> None:
        """Check the template, which has the numbers.

        Raises the codes of `attribute.complete`, CKR_KEY_SIZE_RANGE and CKR_DOMAIN_PARAMS_INVALID for the domain
        parameters, and CKR_ATTRIBUTE_VALUE_INVALID for a private value that is not of them.
        """
        key_type = to_ulong(template[CKA.KEY_TYPE])
        self.attributes = attribute.complete(template, CKO.PRIVATE_KEY, key_type, how)
        over = domain.Domain(key_type, self.attributes)
        over.check()
        private = int.from_bytes(self.attributes.pop(CKA.VALUE), "big")
        if not 1 <= private < over.order:
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_VALUE is not a private value of these domain parameters")
        self._secret = unsigned(private)
        public = {type_: self.attributes[type_] for type_ in DOMAINS[key_type]}
        public[CKA.VALUE] = unsigned(over.public_value(private))
        self.attributes |= der.domain_public(key_type, public)
        if key_type == CKK.DH:
            self.attributes[CKA.VALUE_BITS] = ulong(private.bit_length())
        self.attributes |= attribute.of_created_private_key()

    def add(self, token: Token, session: int) -> int:
        """Add the key to the token and give its identifier."""
        return token.objects.add(self.attributes, session, KeyMaterial(self._secret))
