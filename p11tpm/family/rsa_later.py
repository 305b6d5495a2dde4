"""RSA, but for signatures: verification in software and without a login, and the way to all else."""

from __future__ import annotations

from p11tpm.ck import CKA
from p11tpm.crypto import padding
from p11tpm.crypto.message import Message
from p11tpm.crypto.public import hash_algorithm, rsa_key, rsa_raw
from p11tpm.family.tpm_keys import TpmKeys
from p11tpm.host.imports import Late
from p11tpm.mechanism import PSS, RAW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cryptography import exceptions
    from cryptography.hazmat.primitives.asymmetric import padding as schemes
    from cryptography.hazmat.primitives.asymmetric import utils

    from p11tpm.attribute import Template
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.crypto.cipher import Cipher
    from p11tpm.family import rsa_cipher, rsa_keys, rsa_private
    from p11tpm.family.abilities import Verifier
    from p11tpm.family.pair import KeyPair
    from p11tpm.mechanism import Mechanism
else:
    exceptions = Late("cryptography.exceptions")
    schemes = Late("cryptography.hazmat.primitives.asymmetric.padding")
    utils = Late("cryptography.hazmat.primitives.asymmetric.utils")
    rsa_cipher = Late("p11tpm.family.rsa_cipher")
    rsa_keys = Late("p11tpm.family.rsa_keys")
    rsa_private = Late("p11tpm.family.rsa_private")


class RsaVerifier:
    """Verifies what can be signed in one way only: it is made again and compared (RFC 8017, clause 8.2.2)."""

    __slots__ = ("_key", "_row", "message", "size")

    def __init__(self, key: Object, row: Mechanism, _params: Any) -> None:
        self._key = key
        self._row = row
        self.message = Message.hashed(row.digest)
        self.size = len(key.get(CKA.MODULUS))

    def check(self, data: bytes, signature: bytes) -> bool:
        """Return whether the signature is that of the data or their hash."""
        block = padding.signed_block(self._row.form, self._row.digest, data, self._key.get(CKA.MODULUS))
        return block == rsa_raw(self._key, signature)


class PssVerifier:
    """Verifies RSA-PSS."""

    __slots__ = ("_key", "_params", "message", "size")

    def __init__(self, key: Object, row: Mechanism, params: Any) -> None:
        self._key = rsa_key(key)
        self._params = params
        padding.pss_room(self._key.key_size, params.digest, params.salt_length)
        self.message = Message.hashed(row.digest)
        self.size = len(key.get(CKA.MODULUS))

    def check(self, hashed: bytes, signature: bytes) -> bool:
        """Return whether the signature is that of a hash; raises what `padding.check_pss_digest` does."""
        params = self._params
        padding.check_pss_digest(hashed, params.digest)
        scheme = schemes.PSS(schemes.MGF1(hash_algorithm(params.mask)), params.salt_length)
        try:
            self._key.verify(signature, hashed, scheme, utils.Prehashed(hash_algorithm(params.digest)))
        except exceptions.InvalidSignature:
            return False
        return True


class RsaLater(TpmKeys):
    """What `Rsa` does after the first signature."""

    def verifier(self, _token: Token, key: Object, row: Mechanism, params: Any) -> Verifier:
        """Return what verifies with a public key, in software."""
        return (PssVerifier if row.form == PSS else RsaVerifier)(key, row, params)

    def recover(self, key: Object, row: Mechanism, signature: bytes) -> bytes | None:
        """Return what was signed; None if the signature is wrong."""
        block = rsa_raw(key, signature)
        return block if block is None or row.form == RAW else padding.recovered(block)

    def cipher(self, token: Token, key: Object, row: Mechanism, params: Any, *, encrypt: bool) -> Cipher:
        """Return what encrypts with a public key or decrypts with a private one."""
        if encrypt:
            return rsa_cipher.RsaEncrypt(key, row.form, params)
        return rsa_cipher.RsaDecrypt(token, key, row.form, params)

    def pair(self, token: Token, row: Mechanism, public: Template, private: Template) -> KeyPair:
        """Return the pair that two templates ask for."""
        return rsa_keys.pair(token, row, public, private)

    def public_attributes(self, template: Template) -> Template:
        """Return what follows from modulus and exponent of a public key."""
        return rsa_keys.public_attributes(template)

    def private_key(self, template: Template, how: str) -> rsa_private.RsaKey:
        """Return the private key that a template describes."""
        return rsa_private.RsaKey(template, how)


FAMILY = RsaLater()
