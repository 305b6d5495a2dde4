"""Key pairs as something to show, and the public half in the forms that other programs read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asn1crypto import pem
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from p11tpm.attribute import PAIR_TYPES
from p11tpm.ck import CKA, CKK, CKO, CKR
from p11tpm.cli.machine import objects, private_keys
from p11tpm.cli.output import as_text
from p11tpm.cli.uri import PRIVATE, PUBLIC, object_uri, token_uri
from p11tpm.error import Error
from p11tpm.mechanism import curve_of

if TYPE_CHECKING:
    from p11tpm.cli.machine import Machine
    from p11tpm.object import Object
    from p11tpm.token import Token


class Pair:
    """A key pair of a token: its public key object, its `private` one, or both; `token` is the token's URI."""

    def __init__(self, token: str, public: Object | None, private: Object | None) -> None:
        self.halves = [half for half in (public, private) if half is not None]
        self.private = private
        self._thing = self.halves[0]
        self._token = token
        self.id = self._thing.get(CKA.ID)
        self.label = self._thing.get(CKA.LABEL)
        self.info = _info(self._thing)
        self.in_tpm = private is not None and private.in_tpm
        self.resident = private.record.resident if private else 0  # the persistent handle; 0 if there is none

    @property
    def name(self) -> str:
        """The label, or the id of a key without one."""
        return as_text(self.label) or self.id.hex()

    @property
    def algorithm(self) -> str:
        """The name that ``p11tpm key generate --algorithm`` takes, as ``p256`` or ``rsa2048``."""
        if self._thing.key_type == CKK.RSA:
            return f"rsa{int.from_bytes(self._thing.get(CKA.MODULUS), 'big').bit_length()}"
        if self._thing.key_type == CKK.EC:
            return curve_of(self._thing.get(CKA.EC_PARAMS))
        over = int.from_bytes(self._thing.get(CKA.PRIME), "big").bit_length()
        return f"{'dsa' if self._thing.key_type == CKK.DSA else 'dh'}{over}"

    @property
    def uri(self) -> str:
        """The PKCS#11 URI by which programs find the private key (of a lone public key: that one)."""
        return object_uri(self._token, self.id, self.label, PRIVATE if self.private else PUBLIC)

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


def pairs(machine: Machine, token: Token) -> list[Pair]:
    """Give the key pairs of a token, oldest first, and halves whose other one is not there."""
    place = token_uri(token.row)
    private: dict[bytes, list[Object]] = {}  # a key may have been copied
    for one in private_keys(machine, token):
        private.setdefault(_info(one), []).append(one)
    found = []
    for one in objects(token, CKO.PUBLIC_KEY):
        same = private.get(_info(one))
        found.append(Pair(place, one, same.pop(0) if same else None))
    found += [Pair(place, None, one) for rest in private.values() for one in rest]
    return sorted(found, key=lambda one: one.halves[0].record.id)


def _info(key: Object) -> bytes:
    """Give what both halves of a pair have, and no other key: the public key, or of what has none the object's own."""
    return key.attributes.get(CKA.PUBLIC_KEY_INFO) or key.record.uuid
