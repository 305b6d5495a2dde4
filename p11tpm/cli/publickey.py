"""The public half of a key pair in the forms that other programs read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asn1crypto import pem
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from p11tpm.attribute import PAIR_TYPES, TRUE
from p11tpm.ck import CKA, CKK, CKR
from p11tpm.cli.output import as_text
from p11tpm.cli.uri import PRIVATE, PUBLIC, object_uri
from p11tpm.error import Error
from p11tpm.mechanism import curve_of

if TYPE_CHECKING:
    from p11tpm.object import Object


class PublicKey:
    """A public key object of a token, as something to show and to hand out."""

    def __init__(self, token: str, thing: Object) -> None:
        self.id = thing.get(CKA.ID)
        self.label = thing.get(CKA.LABEL)
        self.made_here = thing.attributes.get(CKA.LOCAL) == TRUE  # with its private half
        self.in_tpm = self.made_here and thing.key_type in PAIR_TYPES
        self.info = thing.attributes.get(CKA.PUBLIC_KEY_INFO, b"")
        self._thing = thing
        self._token = token

    @property
    def name(self) -> str:
        """The label, or the id of a key without one."""
        return as_text(self.label) or self.id.hex()

    @property
    def algorithm(self) -> str:
        """The name that ``p11tpm key generate --algorithm`` takes, as ``p256`` or ``rsa2048``."""
        if self._thing.key_type == CKK.RSA:
            return f"rsa{self._thing.ulong(CKA.MODULUS_BITS)}"
        if self._thing.key_type == CKK.EC:
            return curve_of(self._thing.get(CKA.EC_PARAMS))
        over = int.from_bytes(self._thing.get(CKA.PRIME), "big").bit_length()
        return f"{'dsa' if self._thing.key_type == CKK.DSA else 'dh'}{over}"

    @property
    def uri(self) -> str:
        """The PKCS#11 URI by which programs find the private key (of a lone public key: that one)."""
        return object_uri(self._token, self.id, self.label, PRIVATE if self.made_here else PUBLIC)

    def openssh(self) -> str:
        """Give the line for an authorized_keys file, with the label as comment; CKR_DATA_INVALID for DSA and DH."""
        if self._thing.key_type not in PAIR_TYPES:
            raise Error(CKR.DATA_INVALID, f"'{self.name}' is a key of a type that OpenSSH does not have")
        return f"{self._written(Encoding.OpenSSH, PublicFormat.OpenSSH)} {as_text(self.label)}".rstrip()

    def pem(self) -> str:
        """Give the SubjectPublicKeyInfo in PEM (RFC 7468 clause 13)."""
        if self._thing.key_type not in PAIR_TYPES:
            armored: bytes = pem.armor("PUBLIC KEY", self._thing.get(CKA.PUBLIC_KEY_INFO))
            return armored.decode().rstrip()
        return self._written(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def _written(self, encoding: Encoding, form: PublicFormat) -> str:
        try:
            key = load_der_public_key(self._thing.get(CKA.PUBLIC_KEY_INFO))
        except ValueError:  # other programs may store a point that is on no curve
            raise Error(CKR.DATA_INVALID, f"'{self.name}' is no public key: delete it") from None
        return key.public_bytes(encoding, form).decode().rstrip()
