"""Key pairs as something to show, and the public half in the forms that other programs read."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from asn1crypto import core, pem
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import get_curve_for_oid
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509 import ObjectIdentifier

from p11tpm.algorithm import CURVES
from p11tpm.ck import CKA, CKK, CKO, CKR
from p11tpm.cli.machine import objects, private_keys
from p11tpm.cli.output import as_text
from p11tpm.cli.uri import PRIVATE, PUBLIC, object_uri, token_uri
from p11tpm.error import Error
from p11tpm.family import edwards
from p11tpm.mechanism import curve_of

if TYPE_CHECKING:
    from p11tpm.cli.machine import Machine
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token

_CURVES_OF_OPENSSH = {name for name, curve in CURVES.items() if curve.bits >= 256}  # RFC 5656, clause 10.1
_CURVES_OF_OPENSSH.add("ed25519")  # RFC 8709
_KINDS: dict[int | None, tuple[str, int]] = {  # key type: its word, and the number that says how large it is
    CKK.RSA: ("rsa", CKA.MODULUS),
    CKK.DSA: ("dsa", CKA.PRIME),
    CKK.DH: ("dh", CKA.PRIME),
}


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
        """The name that ``p11tpm key generate --algorithm`` takes, as ``p256`` or ``rsa2048``; of others their own."""
        key_type = self._thing.key_type
        if key_type in {CKK.EC, CKK.EC_EDWARDS}:
            return _curve(self._thing.attributes.get(CKA.EC_PARAMS, b""))
        if key_type not in _KINDS:  # another program may have written into the store
            return f"key type {key_type:#x}"
        word, measure = _KINDS[key_type]
        return f"{word}{int.from_bytes(self._thing.attributes.get(measure, b''), 'big').bit_length()}"

    @property
    def uri(self) -> str:
        """The PKCS#11 URI by which programs find the private key (of a lone public key: that one)."""
        return object_uri(self._token, self.id, self.label, PRIVATE if self.private else PUBLIC)

    def openssh(self) -> str:
        """Return the line for an authorized_keys file, with the label as comment; CKR_DATA_INVALID for other keys."""
        if self._thing.key_type != CKK.RSA and self.algorithm not in _CURVES_OF_OPENSSH:
            raise Error(CKR.DATA_INVALID, f"OpenSSH cannot use '{self.name}', a key of {self.algorithm}: --format pem")
        try:
            key = load_der_public_key(self._public())
            line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        except (ValueError, UnsupportedAlgorithm):  # other programs may store a point that is on no curve
            raise Error(CKR.DATA_INVALID, f"'{self.name}' is not a public key: delete it") from None
        return f"{line} {as_text(self.label)}".rstrip()

    def pem(self) -> str:
        """Return the SubjectPublicKeyInfo in PEM (RFC 7468 clause 13), as it is."""
        armored: bytes = pem.armor("PUBLIC KEY", self._public())
        return armored.decode().rstrip()

    def _public(self) -> bytes:
        try:
            return self._thing.get(CKA.PUBLIC_KEY_INFO)
        except Error:
            raise Error(CKR.DATA_INVALID, f"the token does not have the public half of '{self.name}'") from None


def _curve(params: bytes) -> str:
    """Name a curve: ours by our name, others by the name or the number that their object identifier has."""
    for name in (curve_of, lambda params: edwards.curve_of(params).word):
        with suppress(Error):
            return name(params)
    try:
        dotted = core.ObjectIdentifier.load(params, strict=True).dotted
    except (ValueError, TypeError):
        return "ec with explicit parameters"
    try:
        return str(get_curve_for_oid(ObjectIdentifier(dotted))().name)
    except LookupError:
        return f"ec {dotted}"


def pairs(machine: Machine, token: Token) -> list[Pair]:
    """Return the key pairs of a token, oldest first, and halves whose other one is not there."""
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
    """Return what both halves of a pair have, and no other key: the public key, or the object's own."""
    return key.attributes.get(CKA.PUBLIC_KEY_INFO) or key.record.uuid
