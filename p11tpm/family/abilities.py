"""What a family of mechanisms may be able to do; for types only, no program loads this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.core.key_material import KeyMaterial
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.crypto.cipher import Cipher
    from p11tpm.crypto.message import Message
    from p11tpm.family.pair import KeyPair
    from p11tpm.mechanism import Mechanism


class Signer(Protocol):
    """What signs, in the TPM or in software; `size`: bytes of a signature, or the most of them."""

    message: Message
    size: int

    def sign(self, data: bytes, /) -> bytes:
        """Sign what came of the message."""


class Verifier(Protocol):
    """What verifies; `size`: bytes of a signature."""

    message: Message
    size: int

    def check(self, data: bytes, signature: bytes, /) -> bool:
        """Return whether the signature is that of what came of the message."""


class DescribedKey(Protocol):
    """A private key that a host describes by its numbers, which were checked."""

    def add(self, token: Token, session: int) -> int:
        """Add the key to the token and give its identifier."""


class Abilities:
    """The functions of families.

    Keys were checked before: type, class and usage are those of the mechanism. `params` is the mechanism's decoded
    parameter.
    """

    def signer(self, token: Token, key: Object, row: Mechanism, params: Any, /) -> Signer:
        """Return what signs with a private or a secret key."""
        raise NotImplementedError

    def verifier(self, token: Token, key: Object, row: Mechanism, params: Any, /) -> Verifier:
        """Return what verifies with a public or a secret key."""
        raise NotImplementedError

    def recover(self, key: Object, row: Mechanism, signature: bytes, /) -> bytes | None:
        """Return what was signed; None if the signature is wrong."""
        raise NotImplementedError

    def cipher(self, token: Token, key: Object, row: Mechanism, params: Any, /, *, encrypt: bool) -> Cipher:
        """Return what encrypts or decrypts."""
        raise NotImplementedError

    def derive(self, token: Token, keys: list[Object], row: Mechanism, params: Any, length: int | None, /) -> bytes:
        """Derive so many bytes, or as many as the mechanism gives, from a key and that of the parameter."""
        raise NotImplementedError

    def generate(self, token: Token, row: Mechanism, template: Template, session: int, /) -> int:
        """Make a secret key, or domain parameters, and give the identifier."""
        raise NotImplementedError

    def pair(self, token: Token, row: Mechanism, public: Template, private: Template, /) -> KeyPair:
        """Return the pair that two templates ask for; it is not made yet."""
        raise NotImplementedError

    def public_attributes(self, template: Template, /) -> Template:
        """Return what follows from the attributes of a public key; CKR_ATTRIBUTE_VALUE_INVALID if it is none."""
        raise NotImplementedError

    def private_key(self, template: Template, how: str, /) -> DescribedKey:
        """Return the private key that a template describes; the class that it is of says which errors."""
        raise NotImplementedError

    def private_numbers(self, pkcs8: bytes, /) -> Template:
        """Return the attributes that describe a private key in PKCS #8 DER; CKR_WRAPPED_KEY_INVALID."""
        raise NotImplementedError

    def pkcs8(self, key: Object, /) -> bytes:
        """Return the PKCS #8 DER of a private key that may leave the token."""
        raise NotImplementedError

    def place(self, token: Token, attributes: Template, secret: bytes, /) -> KeyMaterial:
        """Place the copy of a private key in software for an object with these attributes."""
        raise NotImplementedError
