"""EC keys, but for signatures: public keys verify in software, private keys agree with those of others."""

from __future__ import annotations

from p11tpm.algorithm import CURVES, HASHES
from p11tpm.ck import CKA
from p11tpm.crypto import hashes, padding, point
from p11tpm.crypto.message import Message
from p11tpm.crypto.public import ec_key, prehashed
from p11tpm.family.length import last_bytes
from p11tpm.family.tpm_keys import TpmKeys
from p11tpm.given import refused
from p11tpm.host.imports import Late
from p11tpm.mechanism import curve_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cryptography import exceptions
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    from p11tpm.attribute import Template
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.crypto import der
    from p11tpm.family import ec_keys, ec_private
    from p11tpm.family.abilities import Verifier
    from p11tpm.family.pair import KeyPair
    from p11tpm.mechanism import Mechanism
else:
    exceptions = Late("cryptography.exceptions")
    ec = Late("cryptography.hazmat.primitives.asymmetric.ec")
    utils = Late("cryptography.hazmat.primitives.asymmetric.utils")
    der = Late("p11tpm.crypto.der")
    ec_keys = Late("p11tpm.family.ec_keys")
    ec_private = Late("p11tpm.family.ec_private")


class EcdsaVerifier:
    """Verifies ECDSA."""

    __slots__ = ("_bits", "_key", "message", "size")

    def __init__(self, key: Object, row: Mechanism) -> None:
        self._key = ec_key(key)
        curve = CURVES[curve_of(key.get(CKA.EC_PARAMS))]
        self._bits = curve.bits
        self.message = Message.hashed(row.digest)
        self.size = 2 * curve.size

    def check(self, data: bytes, signature: bytes) -> bool:
        """Return whether the signature, r and s side by side, is that of a hash."""
        hashed, half = padding.ecdsa(data, self._bits), self.size // 2
        r, s = (int.from_bytes(number, "big") for number in (signature[:half], signature[half:]))
        try:
            self._key.verify(utils.encode_dss_signature(r, s), hashed, ec.ECDSA(prehashed(len(hashed))))
        except exceptions.InvalidSignature:
            return False
        return True


def agree(token: Token, key: Object, params: Any, length: int | None) -> bytes:
    """Derive a value by ECDH (clause 2.3.17); CKR_MECHANISM_PARAM_INVALID for a point that is not on the curve."""
    try:
        public = point.coordinates(curve_of(key.get(CKA.EC_PARAMS)), params.point)
    except ValueError:
        raise refused("the other side's public key is not an uncompressed point of the curve") from None
    shared = token.user_of(key).ecdh(key, public)
    if params.digest is None:
        return last_bytes(shared, length)
    return x963(shared, params.shared_data, params.digest, length)


def x963(shared: bytes, info: bytes, digest: str, length: int | None) -> bytes:
    """Derive `length` bytes, or one digest, by the key derivation function of ANSI X9.63 (SEC 1, clause 3.6.1)."""
    size = HASHES[digest].size
    blocks = range(1, -(-(length or size) // size) + 1)
    made = b"".join(hashes.digest(digest, shared + count.to_bytes(4, "big") + info) for count in blocks)
    return made[: length or size]


class EcLater(TpmKeys):
    """What `Ec` does after the first signature."""

    def verifier(self, _token: Token, key: Object, row: Mechanism, _params: Any) -> Verifier:
        """Return what verifies with a public key, in software."""
        return EcdsaVerifier(key, row)

    def derive(self, token: Token, keys: list[Object], _row: Mechanism, params: Any, length: int | None) -> bytes:
        """Agree with the other side's public key (ECDH)."""
        return agree(token, keys[0], params, length)

    def pair(self, token: Token, row: Mechanism, public: Template, private: Template) -> KeyPair:
        """Return the pair that two templates ask for."""
        return ec_keys.pair(token, row, public, private)

    def public_attributes(self, template: Template) -> Template:
        """Return what follows from curve and point of a public key."""
        return der.created_ec(template[CKA.EC_PARAMS], template[CKA.EC_POINT])

    def private_key(self, template: Template, how: str) -> ec_private.EcKey:
        """Return the private key that a template describes."""
        return ec_private.EcKey(template, how)


FAMILY = EcLater()
