"""DER for attributes of keys and certificates, spoken by asn1crypto; imported when keys or certificates are made."""

from __future__ import annotations

from itertools import islice

from asn1crypto import core, keys, parser

from p11tpm.algorithm import CURVES
from p11tpm.attribute import DOMAINS, Template, to_ulong, ulong, unsigned
from p11tpm.ck import CKA, CKK, CKO, CKR
from p11tpm.crypto.hashes import digest
from p11tpm.error import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

INTEGER, BIT_STRING, OCTET_STRING, OID, SEQUENCE, SET = 0x02, 0x03, 0x04, 0x06, 0x30, 0x31
_VERSION = 0xA0

_FORMS = {2, 3, 4}  # the first byte of a point: compressed, in two ways, or uncompressed
_DOMAIN_OIDS = {CKK.DSA: "1.2.840.10040.4.1", CKK.DH: "1.2.840.113549.1.3.1"}


def rsa_key(modulus: int, exponent: int) -> keys.RSAPublicKey:
    """Return an RSAPublicKey of PKCS #1 (RFC 8017, appendix A.1.1)."""
    return keys.RSAPublicKey({"modulus": modulus, "public_exponent": exponent})


def rsa_public(modulus: int, exponent: int) -> Template:
    """Return the attributes that describe an RSA public key (Current Mechanisms 3.0, clause 2.1.2)."""
    key = rsa_key(modulus, exponent)
    return {
        CKA.MODULUS: unsigned(modulus),
        CKA.PUBLIC_EXPONENT: unsigned(exponent),
        CKA.MODULUS_BITS: ulong(modulus.bit_length()),
        CKA.PUBLIC_KEY_INFO: keys.PublicKeyInfo.wrap(key, "rsa").dump(),
    }


def ec_public(name: str, x: int, y: int) -> Template:
    """Return the attributes that describe an EC public key: CKA_EC_POINT is a DER OCTET STRING (clause 2.3.3)."""
    curve = CURVES[name]
    point = b"\x04" + x.to_bytes(curve.size, "big") + y.to_bytes(curve.size, "big")
    domain = keys.ECDomainParameters.load(curve.params)
    algorithm = keys.PublicKeyAlgorithm({"algorithm": "ec", "parameters": domain})
    info = keys.PublicKeyInfo({"algorithm": algorithm, "public_key": keys.ECPointBitString(point)})
    return {
        CKA.EC_PARAMS: curve.params,
        CKA.EC_POINT: core.OctetString(point).dump(),
        CKA.PUBLIC_KEY_INFO: info.dump(),
    }


class _Numbers(core.SequenceOf):  # type: ignore[misc]
    _child_spec = core.Integer


class _Algorithm(core.Sequence):  # type: ignore[misc]
    _fields = [("algorithm", core.ObjectIdentifier), ("parameters", _Numbers)]  # noqa: RUF012 - asn1crypto wants lists


class _PublicKeyInfo(core.Sequence):  # type: ignore[misc]
    """SubjectPublicKeyInfo of a key whose algorithm has numbers for parameters; asn1crypto's does not know DH."""

    _fields = [("algorithm", _Algorithm), ("public_key", core.OctetBitString)]  # noqa: RUF012


def domain_public(key_type: int, template: Template) -> Template:
    """Describe a public key of DSA (RFC 3279, clause 2.3.2) or DH (PKCS #3, clause 9) by its numbers.

    CKR_ATTRIBUTE_VALUE_INVALID if the public value is not below the prime.
    """
    value, prime = (int.from_bytes(template[type_], "big") for type_ in (CKA.VALUE, CKA.PRIME))
    if not 1 < value < prime:
        raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "this is not a public key over such a prime")
    numbers = [int.from_bytes(template[type_], "big") for type_ in DOMAINS[key_type]]
    algorithm = {"algorithm": _DOMAIN_OIDS[key_type], "parameters": numbers}
    info = _PublicKeyInfo({"algorithm": algorithm, "public_key": core.Integer(value).dump()})
    return {CKA.PUBLIC_KEY_INFO: info.dump()}


class _PrivateKeyInfo(core.Sequence):  # type: ignore[misc]
    """PrivateKeyInfo of such a key (RFC 5208)."""

    _fields = [  # noqa: RUF012
        ("version", core.Integer),
        ("algorithm", _Algorithm),
        ("private_key", core.ParsableOctetString),
    ]


def domain_private(template: Template, number: bytes) -> bytes:
    """Encode a private key of DSA or DH with this private number as a PrivateKeyInfo."""
    key_type = to_ulong(template[CKA.KEY_TYPE])
    numbers = [int.from_bytes(template[type_], "big") for type_ in DOMAINS[key_type]]
    algorithm = {"algorithm": _DOMAIN_OIDS[key_type], "parameters": numbers}
    private = core.Integer(int.from_bytes(number, "big")).dump()
    return bytes(_PrivateKeyInfo({"version": 0, "algorithm": algorithm, "private_key": private}).dump())


def created_ec(params: bytes, octets: bytes) -> Template:
    """Describe an EC public key that a host gives; CKR_ATTRIBUTE_VALUE_INVALID, CKR_CURVE_NOT_SUPPORTED."""
    name = next((name for name, curve in CURVES.items() if curve.params == params), "")
    size = 1 + 2 * CURVES[name].size if name else 1
    point = octets if name and len(octets) == size else _point(octets)
    if not name and point and point[0] in _FORMS:
        return _foreign_ec(params, point)
    if len(point) != size or point[0] != 4:
        raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_EC_POINT is not an uncompressed point of the curve")
    half = size // 2
    return ec_public(name, int.from_bytes(point[1 : 1 + half], "big"), int.from_bytes(point[1 + half :], "big"))


def _point(octets: bytes) -> bytes:
    """Return a point (SEC 1, clause 2.3.3) that is given in a DER OCTET STRING, as the standard has it, or raw."""
    try:
        inner = bytes(core.OctetString.load(octets, strict=True).native)
    except ValueError:
        return octets
    return octets if inner and inner[0] not in _FORMS else inner


def _foreign_ec(params: bytes, point: bytes) -> Template:
    """Describe a public key on a curve that no TPM has: it is kept as it is given."""
    try:
        domain = keys.ECDomainParameters.load(params, strict=True)
        algorithm = keys.PublicKeyAlgorithm({"algorithm": "ec", "parameters": domain})
        info = keys.PublicKeyInfo({"algorithm": algorithm, "public_key": keys.ECPointBitString(point)})
        return {CKA.PUBLIC_KEY_INFO: info.dump(), CKA.EC_POINT: core.OctetString(point).dump()}
    except (ValueError, TypeError):
        raise Error(CKR.CURVE_NOT_SUPPORTED, "CKA_EC_PARAMS is not the DER of a curve") from None


class Element:
    """One element of DER: the first octet of its tag, its content, and the whole of it."""

    __slots__ = ("content", "tag", "whole")

    def __init__(self, tag: int, content: bytes, whole: bytes) -> None:
        self.tag = tag
        self.content = content
        self.whole = whole


def elements(data: bytes) -> Iterator[Element]:
    """Split into elements, one after the other; ValueError where it is not DER."""
    while data:
        form, method, number, head, content, tail = parser.parse(data)
        whole = data[: len(head) + len(content) + len(tail)]
        yield Element(form << 6 | method << 5 | min(number, 31), content, whole)
        data = data[len(whole) :]


def whole(data: bytes) -> Element:
    """Return the only element; ValueError if there is none, or something behind it."""
    (found,) = elements(data)
    return found


class PublicKey:
    """SubjectPublicKeyInfo, of any algorithm: the parts that it is made of (RFC 5280 clause 4.1).

    `algorithm` is the content of the object identifier, `parameters` the whole element, empty if there is none, and
    `bits` are the octets of the BIT STRING. Raises ValueError for anything else.
    """

    __slots__ = ("algorithm", "bits", "parameters")

    def __init__(self, info: bytes) -> None:
        algorithm, key = elements(whole(info).content)
        oid, *parameters = islice(elements(algorithm.content), 2)
        if (algorithm.tag, oid.tag, key.tag) != (SEQUENCE, OID, BIT_STRING) or not key.content:
            raise ValueError("this is not a SubjectPublicKeyInfo")
        self.algorithm = oid.content
        self.parameters = parameters[0].whole if parameters else b""
        self.bits = key.content[1:]

    @property
    def identifier(self) -> bytes:
        """The SHA-1 of the BIT STRING, for which nobody needs to know the algorithm (clause 4.2.1.2, method 1)."""
        return digest("sha1", self.bits)


class Certificate:
    """An X.509 certificate as DER: each field as it stands there, whatever it says (RFC 5280 clause 4.1).

    Of what the fields hold only the form of the public key is looked at: versions, numbers, names, dates and algorithms
    that no library knows are for those who ask. Raises CKR_ATTRIBUTE_VALUE_INVALID for bytes that are not a
    certificate.
    """

    __slots__ = ("issuer", "public_key", "serial", "subject", "validity")

    def __init__(self, value: bytes) -> None:
        try:
            self.serial, _, self.issuer, self.validity, self.subject, self.public_key = _fields(value)
            PublicKey(self.public_key)
        except (ValueError, IndexError):
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_VALUE is not an X.509 certificate in DER") from None


def _fields(value: bytes) -> list[bytes]:
    """Return serial number, algorithm, issuer, validity, subject and public key of a certificate, each as it stands."""
    outer = whole(value)
    tbs, algorithm, signature = elements(outer.content)
    fields = [*islice(elements(tbs.content), 7)]
    fields = fields[1:] if fields[0].tag == _VERSION else fields[:6]
    forms = [one.tag for one in (outer, tbs, algorithm, signature, *fields)]
    if forms != [SEQUENCE, SEQUENCE, SEQUENCE, BIT_STRING, INTEGER, *[SEQUENCE] * 5]:
        raise ValueError("this is not a certificate")
    return [one.whole for one in fields]


def certificate(value: bytes) -> Template:
    """Return what an X.509 certificate says of itself: subject, issuer, serial number, public key (clause 4.6.3).

    And its check value: the first three bytes of its SHA-1, a name and no safeguard.

    Raises CKR_ATTRIBUTE_VALUE_INVALID for bytes that are not a certificate.
    """
    read = Certificate(value)
    return {
        CKA.SUBJECT: read.subject,
        CKA.ISSUER: read.issuer,
        CKA.SERIAL_NUMBER: read.serial,
        CKA.PUBLIC_KEY_INFO: read.public_key,
        CKA.CHECK_VALUE: digest("sha1", value)[:3],
    }


def private_numbers(pkcs8: bytes) -> Template:
    """Return the attributes that make a private key of a PrivateKeyInfo (RFC 5208, RFC 5915; clause 4.9).

    RSA: modulus, exponents and primes; EC: parameters, private number, and the public point if it is there. Raises
    CKR_WRAPPED_KEY_INVALID for anything else.
    """
    try:
        info = keys.PrivateKeyInfo.load(pkcs8, strict=True)
        kind, key = info.algorithm, info["private_key"].parsed
        numbers = _RSA_NUMBERS if kind == "rsa" else ()
        found = {type_: unsigned(key[part].native) for type_, part in numbers}
        if kind == "ec":
            domain = info["private_key_algorithm"]["parameters"].dump()
            found = {CKA.EC_PARAMS: domain, CKA.VALUE: key["private_key"].contents}
            if key["public_key"].native is not None:
                found[CKA.EC_POINT] = core.OctetString(key["public_key"].native).dump()
    except (ValueError, TypeError, KeyError, OverflowError):
        found = {}
    if not found:
        raise Error(CKR.WRAPPED_KEY_INVALID, "this is not a private key of RSA or EC in PKCS #8 DER")
    return {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(CKK.RSA if kind == "rsa" else CKK.EC), **found}


def domain_numbers(pkcs8: bytes) -> Template:
    """Return the same for DSA and DH: domain parameters and private number."""
    try:
        oid = core.Sequence.load(pkcs8, strict=True)[1][0].native
        key_type = next(key_type for key_type, name in _DOMAIN_OIDS.items() if name == oid)
        info = _PrivateKeyInfo.load(pkcs8, strict=True)
        numbers = list(info["algorithm"]["parameters"].native)[: len(DOMAINS[key_type])]  # PKCS #3 may add a length
        found = dict(zip(DOMAINS[key_type], map(unsigned, numbers), strict=True))
        found[CKA.VALUE] = unsigned(info["private_key"].parsed.native)
    except (ValueError, TypeError, KeyError, OverflowError, StopIteration):
        raise Error(CKR.WRAPPED_KEY_INVALID, "this is not a private key of DSA or DH in PKCS #8 DER") from None
    return {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(key_type), **found}


_RSA_NUMBERS = (
    (CKA.MODULUS, "modulus"),
    (CKA.PUBLIC_EXPONENT, "public_exponent"),
    (CKA.PRIVATE_EXPONENT, "private_exponent"),
    (CKA.PRIME_1, "prime1"),
    (CKA.PRIME_2, "prime2"),
    (CKA.EXPONENT_1, "exponent1"),
    (CKA.EXPONENT_2, "exponent2"),
    (CKA.COEFFICIENT, "coefficient"),
)
