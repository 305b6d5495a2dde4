"""EdDSA (RFC 8032; Current Mechanisms 3.0, clauses 2.3.5, 2.3.6, 2.3.10 and 2.3.14), on curves that no TPM has.

Private keys are secrets of the token in software. Signatures are pure, without prehashing and without a context, since
the package cryptography makes no others.
"""

from __future__ import annotations

from functools import partial

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey, Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from p11tpm import attribute
from p11tpm.attribute import TRUE, Template, ulong
from p11tpm.ck import CKA, CKK, CKO, CKR, name
from p11tpm.core.key_material import KeyMaterial
from p11tpm.core.randomness import secret_bytes
from p11tpm.crypto.message import Gathered, Message
from p11tpm.error import Error, answering
from p11tpm.family.family import Family
from p11tpm.family.pair import KeyPair
from p11tpm.family.private_key import pkcs8
from p11tpm.given import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism
    from p11tpm.parameter import EddsaParams

    Private = type[Ed25519PrivateKey | Ed448PrivateKey]
    Public = type[Ed25519PublicKey | Ed448PublicKey]

_OF_A_KEY = {CKR.ATTRIBUTE_VALUE_INVALID: CKR.KEY_TYPE_INCONSISTENT}  # codes of a template: those of a key in the store
_MOST_GATHERED = 1 << 30  # bytes of a message, all of which EdDSA reads twice


class Curve:
    """A curve. `size`: bytes of a private key and of a point; `private` and `public`: keys as cryptography has them.

    CKA_EC_PARAMS is an object identifier of RFC 8410 (1.3.101.112 and 113), `oid`, or the name of the curve. `word` is
    what keys on it are called.
    """

    __slots__ = ("oid", "params", "private", "public", "size", "word")

    def __init__(self, word: str, name: bytes, oid: str, size: int, private: Private, public: Public) -> None:
        self.word = word
        self.oid = bytes.fromhex(oid)
        self.params = {self.oid, bytes((0x13, len(name))) + name}  # PrintableString
        self.size = size
        self.private = private
        self.public = public


_CURVES = (
    Curve("ed25519", b"edwards25519", "06032b6570", 32, Ed25519PrivateKey, Ed25519PublicKey),
    Curve("ed448", b"edwards448", "06032b6571", 57, Ed448PrivateKey, Ed448PublicKey),
)


def curve_of(params: bytes) -> Curve:
    """Return the curve of a CKA_EC_PARAMS; CKR_CURVE_NOT_SUPPORTED for another one."""
    for curve in _CURVES:
        if params in curve.params:
            return curve
    raise Error(CKR.CURVE_NOT_SUPPORTED, "CKA_EC_PARAMS is neither edwards25519 nor edwards448")


def _private(curve: Curve, value: bytes) -> Ed25519PrivateKey | Ed448PrivateKey:
    try:
        return curve.private.from_private_bytes(value)
    except ValueError:
        raise Error(CKR.ATTRIBUTE_VALUE_INVALID, f"CKA_VALUE of this curve has {curve.size} bytes") from None
    except UnsupportedAlgorithm:
        raise Error(CKR.CURVE_NOT_SUPPORTED, "libcrypto does not have the curve") from None


def _public(curve: Curve, point: bytes) -> Ed25519PublicKey | Ed448PublicKey:
    """Return a public key of its point: raw, or in a DER OCTET STRING or BIT STRING (3.1, 3.0 as it is understood)."""
    for head in (bytes((0x04, curve.size)), bytes((0x03, curve.size + 1, 0))):
        if len(point) == len(head) + curve.size and point.startswith(head):
            point = point[len(head) :]
    try:
        return curve.public.from_public_bytes(point)
    except ValueError:
        raise Error(CKR.ATTRIBUTE_VALUE_INVALID, f"CKA_EC_POINT of this curve has {curve.size} bytes") from None
    except UnsupportedAlgorithm:
        raise Error(CKR.CURVE_NOT_SUPPORTED, "libcrypto does not have the curve") from None


def _described(key: Ed25519PublicKey | Ed448PublicKey) -> Template:
    """Return the attributes that describe a public key; its point is in a DER OCTET STRING, as other curves have it."""
    point = key.public_bytes_raw()
    return {
        CKA.EC_POINT: bytes((0x04, len(point))) + point,
        CKA.PUBLIC_KEY_INFO: key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    }


class _Signature:
    """What signing and verifying have in common. `size`: bytes of a signature."""

    __slots__ = ("_curve", "_key", "message", "size")

    def __init__(self, key: Object, params: EddsaParams) -> None:
        self._key = key
        self._curve = curve_of(key.get(CKA.EC_PARAMS))
        self.size = 2 * self._curve.size
        self.message = Message(partial(Gathered, _MOST_GATHERED))
        if params.prehashed or params.context:
            raise refused("signatures with prehashing or a context are not supported")
        if params.given and self._curve is _CURVES[0]:
            raise refused("Ed25519 takes no parameter: with one it is Ed25519ctx, which is not supported")


class EddsaSigner(_Signature):
    """Signs with a private key of the token."""

    __slots__ = ("_token",)

    def __init__(self, token: Token, key: Object, _row: Mechanism, params: EddsaParams) -> None:
        super().__init__(key, params)
        self._token = token

    def sign(self, data: bytes) -> bytes:
        """Sign a message."""
        return _private(self._curve, self._token.tpm.secret_of(self._key)).sign(data)


class EddsaVerifier(_Signature):
    """Verifies with a public key."""

    __slots__ = ("_public",)

    def __init__(self, _token: Token, key: Object, _row: Mechanism, params: EddsaParams) -> None:
        super().__init__(key, params)
        with answering(_OF_A_KEY):
            self._public = _public(self._curve, key.get(CKA.EC_POINT))

    def check(self, data: bytes, signature: bytes) -> bool:
        """Return whether the signature is that of a message."""
        try:
            self._public.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class EdwardsPair(KeyPair):
    """A key pair; raises CKR_CURVE_NOT_SUPPORTED."""

    def __init__(self, row: Mechanism, public: Template, private: Template) -> None:
        super().__init__(row, public, private)
        self._curve = curve_of(self.public[CKA.EC_PARAMS])

    def make(self, token: Token) -> tuple[Template, Template, KeyMaterial]:
        """Make the pair in software."""
        value = secret_bytes(token, self._curve.size, kept=self.private[CKA.TOKEN] == TRUE)
        numbers = _described(_private(self._curve, value).public_key())
        numbers[CKA.EC_PARAMS] = self.public[CKA.EC_PARAMS]
        described = super()._described(numbers, CKA.EC_POINT, CKA.EC_PARAMS, CKA.PUBLIC_KEY_INFO)
        return *described, KeyMaterial(value)


class EdwardsKey:
    """A private key that a host describes by CKA_EC_PARAMS and CKA_VALUE."""

    def __init__(self, template: Template, how: str) -> None:
        """Check the template.

        Raises the codes of `attribute.complete`, CKR_TEMPLATE_INCOMPLETE, CKR_CURVE_NOT_SUPPORTED, and
        CKR_ATTRIBUTE_VALUE_INVALID for a value of another length.
        """
        self.attributes = attribute.complete(template, CKO.PRIVATE_KEY, CKK.EC_EDWARDS, how)
        for type_ in (CKA.EC_PARAMS, CKA.VALUE):
            if type_ not in template:
                raise Error(CKR.TEMPLATE_INCOMPLETE, f"the template lacks {name(CKA, type_)}")
        self._value = self.attributes.pop(CKA.VALUE)
        key = _private(curve_of(template[CKA.EC_PARAMS]), self._value)
        self.attributes[CKA.PUBLIC_KEY_INFO] = _described(key.public_key())[CKA.PUBLIC_KEY_INFO]
        self.attributes |= attribute.of_created_private_key()

    def add(self, token: Token, session: int) -> int:
        """Add the key to the token and give its identifier."""
        return token.objects.add(self.attributes, session, KeyMaterial(self._value))


class Edwards(Family):
    """EdDSA."""

    signer = EddsaSigner
    verifier = EddsaVerifier
    private_key = EdwardsKey

    def pair(self, _token: Token, row: Mechanism, public: Template, private: Template) -> EdwardsPair:
        """Return the pair that two templates ask for."""
        return EdwardsPair(row, public, private)

    def public_attributes(self, template: Template) -> Template:
        """Return what follows from curve and point of a public key."""
        return _described(_public(curve_of(template[CKA.EC_PARAMS]), template[CKA.EC_POINT]))

    def private_numbers(self, pkcs8: bytes) -> Template:
        """Return curve and value of a private key in PKCS #8 DER (RFC 8410)."""
        try:
            key = load_der_private_key(pkcs8, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        for curve in _CURVES:
            if isinstance(key, curve.private):
                kind = {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(CKK.EC_EDWARDS)}
                return {**kind, CKA.EC_PARAMS: curve.oid, CKA.VALUE: key.private_bytes_raw()}
        raise Error(CKR.WRAPPED_KEY_INVALID, "this is not a private key of EdDSA in PKCS #8 DER")

    def pkcs8(self, key: Object) -> bytes:
        """Return the PKCS #8 DER of a private key (RFC 8410)."""
        return pkcs8(_private(curve_of(key.get(CKA.EC_PARAMS)), key.leaving()))

    def place(self, _token: Token, _attributes: Template, secret: bytes) -> KeyMaterial:
        """Leave the copy of a private key in software."""
        return KeyMaterial(secret)


FAMILY = Edwards()
