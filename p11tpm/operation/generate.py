"""New keys (C_GenerateKey and C_GenerateKeyPair, clause 5.18)."""

from __future__ import annotations

from os import urandom

from p11tpm import attribute
from p11tpm.attribute import TRUE
from p11tpm.ck import CKA, CKF, CKR
from p11tpm.error import Error
from p11tpm.keypair import KeyPair
from p11tpm.secretkey import SecretKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.parameter import Given
    from p11tpm.token import Token

_MIXED = 64  # bytes: more than any of these keys is strong for


def generate_key(token: Token, given: Given, template: Template, session: int = 0) -> int:
    """Make a secret key of random bytes and give its identifier."""
    row = token.mechanism(given.type, CKF.GENERATE)
    row.params(given)
    (key_type,) = row.keys
    key = SecretKey(template, attribute.GENERATE, key_type)
    if key.length is None:
        raise Error(CKR.TEMPLATE_INCOMPLETE, "the template lacks CKA_VALUE_LEN")
    key.check_length(key.length)
    token.require_writer(key.attributes)
    value = _random(token, key.length, kept=key.attributes[CKA.TOKEN] == TRUE)
    return key.add(token, value, attribute.of_generated_key(given.type), session, was_secret=True)


def _random(token: Token, length: int, *, kept: bool) -> bytes:
    """Give random bytes of the system; in a key that is kept the first 64 are mixed with as many of the TPM's.

    Either generator may be bad then, at one command a key. Session keys do without: hosts make them by the thousand.
    """
    value = urandom(length)
    if not kept:
        return value
    mixed = min(length, _MIXED)
    return bytes(a ^ b for a, b in zip(value, token.vault.random(mixed), strict=False)) + value[mixed:]


def generate_pair(token: Token, given: Given, public: Template, private: Template, session: int = 0) -> tuple[int, int]:
    """Make a key pair in the TPM and give its two objects' identifiers, public key first.

    Both objects appear in one transaction, or neither.
    """
    row = token.mechanism(given.type, CKF.GENERATE_KEY_PAIR)
    row.params(given)
    pair = KeyPair(row, public, private, token.capabilities)
    with token.lock:
        for attributes in (pair.public, pair.private):
            token.require_writer(attributes)
        secret = token.new_record(pair.private)
        blob = token.vault.create(pair.template, token.new_auth(secret))
        pair.describe(blob.public)
        secret.attributes.update(pair.private)
        secret.tpm_public, secret.tpm_private = blob.public, blob.private
        public_id, private_id = token.add([token.new_record(pair.public), secret], session)
        return public_id, private_id
