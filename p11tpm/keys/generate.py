"""New keys (C_GenerateKey and C_GenerateKeyPair, clause 5.18)."""

from __future__ import annotations

from p11tpm.ck import CKF
from p11tpm.family.family import family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.core.token import Token
    from p11tpm.given import Given


def generate_key(token: Token, given: Given, template: Template, session: int = 0) -> int:
    """Make a secret key of random bytes, or domain parameters, and give its identifier."""
    row = token.mechanism(given.type, CKF.GENERATE)
    row.params(given)
    return family(row.family).generate(token, row, template, session)


def generate_pair(token: Token, given: Given, public: Template, private: Template, session: int = 0) -> tuple[int, int]:
    """Make a key pair and give its two objects' identifiers, public key first.

    Both objects appear in one transaction, or neither.
    """
    row = token.mechanism(given.type, CKF.GENERATE_KEY_PAIR)
    row.params(given)
    pair = family(row.family).pair(token, row, public, private)
    with token.objects.adding(session, pair.public, pair.private) as adding:
        public, private, material = pair.make(token)
        made = adding.add(public), adding.add(private, material)
    return made[0].id, made[1].id
