"""New keys (C_GenerateKey and C_GenerateKeyPair, clause 5.18)."""

from __future__ import annotations

from p11tpm import attribute
from p11tpm.attribute import DOMAINS, TRUE, to_ulong
from p11tpm.ck import CKA, CKF, CKO, CKR
from p11tpm.core.randomness import secret_bytes
from p11tpm.error import Error
from p11tpm.host.imports import Late
from p11tpm.keys import placement
from p11tpm.keys.secret_key import SecretKey
from p11tpm.mechanism import DOMAIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.core.token import Token
    from p11tpm.crypto import domain
    from p11tpm.keys import extractable, software_pair, tpm_pair
    from p11tpm.keys.pair import KeyPair
    from p11tpm.mechanism import Mechanism
    from p11tpm.parameter import Given
else:
    domain = Late("p11tpm.crypto.domain")
    extractable = Late("p11tpm.keys.extractable")
    software_pair = Late("p11tpm.keys.software_pair")
    tpm_pair = Late("p11tpm.keys.tpm_pair")


def generate_key(token: Token, given: Given, template: Template, session: int = 0) -> int:
    """Make a secret key of random bytes, or domain parameters, and give its identifier."""
    row = token.mechanism(given.type, CKF.GENERATE)
    row.params(given)
    (key_type,) = row.keys
    if row.form == DOMAIN:
        return _domain(token, key_type, template, session)
    key = SecretKey(template, attribute.GENERATE, key_type)
    if key.length is None:
        raise Error(CKR.TEMPLATE_INCOMPLETE, "the template lacks CKA_VALUE_LEN")
    key.check_length(key.length)
    token.require_writer(key.attributes)
    value = None
    if not placement.made_by_tpm(token, key.attributes, key.length):
        value = key.shaped(secret_bytes(token, key.length, kept=key.attributes[CKA.TOKEN] == TRUE))
    return key.add(token, value, attribute.of_generated_key(given.type), session, was_secret=True)


def _domain(token: Token, key_type: int, template: Template, session: int) -> int:
    attributes = attribute.complete(template, CKO.DOMAIN_PARAMETERS, key_type, attribute.GENERATE)
    token.require_writer(attributes)
    attributes |= domain.generated(key_type, to_ulong(attributes[CKA.PRIME_BITS])) | {CKA.LOCAL: TRUE}
    return token.objects.add(attributes, session)


def generate_pair(token: Token, given: Given, public: Template, private: Template, session: int = 0) -> tuple[int, int]:
    """Make a key pair and give its two objects' identifiers, public key first.

    Both objects appear in one transaction, or neither.
    """
    row = token.mechanism(given.type, CKF.GENERATE_KEY_PAIR)
    row.params(given)
    pair = _pair(row, public, private, token)
    with token.objects.adding(session, pair.public, pair.private) as adding:
        public, private, material = pair.make(token)
        made = adding.add(public), adding.add(private, material)
    return made[0].id, made[1].id


def _pair(row: Mechanism, public: Template, private: Template, token: Token) -> KeyPair:
    if row.keys[0] in DOMAINS:
        return software_pair.SoftPair(row, public, private)
    if placement.in_software(private):
        return extractable.ExtractablePair(row, public, private, token.capabilities)
    return tpm_pair.TpmPair(row, public, private, token.capabilities)
