"""An exercise of a mechanism: what it does, by its standard name and flag, compared with another implementation.

A mechanism's name tells which family it belongs to, and which hash or mode it has: nothing here reads the token's own
table. A family is a class; its methods are the flags that it can exercise.
"""

from __future__ import annotations

import hashlib
import re

from cryptography.hazmat.primitives import hashes
from cryptoki import Rv

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKO, CKR

MESSAGE = b"thirty-nine bytes, hashed or encrypted."
DIGEST = hashlib.sha256(MESSAGE).digest()
OPEN = {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE}
STAYS = {CKA.TOKEN: TRUE, CKA.SENSITIVE: TRUE, CKA.EXTRACTABLE: FALSE}
SECRET = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET)}


def hash_of(name):
    """Return the hash whose name is in that of a mechanism: as hashlib has it, and as cryptography has it."""
    word = re.search(r"MD5|SHA3_\d+|SHA_?\d+", name)[0].replace("SHA_1", "SHA1")
    return word.lower(), getattr(hashes, word)()


class Family:
    """One mechanism at one key size; `keep` makes an object without the wire's record of it.

    A class that can be exercised has `names`, a regular expression of what follows CKM_, and `may_stay` if its secret
    keys can be in the TPM; `stays` is whether they are to be.
    """

    may_stay = False

    def __init__(self, run, session, keep, type_, name, size, *, stays=False):
        self.run, self.session, self.keep = run, session, keep
        self.type, self.name, self.size, self.stays = type_, name, size, stays

    def create(self, template, name=None):
        """Make an object, or give the one of this name that was made before."""
        return self.keep(lambda: self.run.create(self.session, template), name)

    def value(self, key):
        return self.run.get(self.session, key, CKA.VALUE)

    def secret(self, value, key_type=CKK.GENERIC_SECRET, **more):
        named = {getattr(CKA, word): content for word, content in more.items()}
        return self.create({**SECRET, CKA.KEY_TYPE: ulong(key_type), CKA.VALUE: value, **OPEN, **named})

    def working(self, value, key_type):
        """Make the secret key that is exercised: one for this mechanism that stays in the TPM, or a session key."""
        more = {**STAYS, CKA.ALLOWED_MECHANISMS: ulong(self.type)} if self.stays else OPEN
        return self.create({**SECRET, CKA.KEY_TYPE: ulong(key_type), CKA.VALUE: value, **more})

    def verified(self, key, data, signature, parameter=b""):
        """Check that a signature is taken, and that one with another byte is not."""
        self.run.verify(self.session, key, self.type, data, signature, parameter)
        other = signature[:-1] + bytes((signature[-1] ^ 1,))
        try:
            self.run.verify(self.session, key, self.type, data, other, parameter)
        except Rv as error:
            assert error == CKR.SIGNATURE_INVALID  # noqa: PT017 - an exercise is not a test
        else:
            raise AssertionError("a wrong signature is taken")
