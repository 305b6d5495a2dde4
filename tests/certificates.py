"""Certificates that programs write and few libraries read, put together octet by octet. All keys are test keys."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from p11tpm.crypto.der import elements, whole

SIGNER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
RSA_KEY, EC_KEY = bytes.fromhex("300d06092a864886f70d0101010500"), bytes.fromhex("06072a8648ce3d0201")
P256 = bytes.fromhex("06082a8648ce3d030107")
ECDSA = bytes.fromhex("06082a8648ce3d040302")
NULL = b"\x05\x00"


def tlv(tag: int, *content: bytes) -> bytes:
    body = b"".join(content)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


def seq(*content: bytes) -> bytes:
    return tlv(0x30, *content)


def integer(number: int) -> bytes:
    return tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def bits(content: bytes) -> bytes:
    return tlv(0x03, b"\0", content)


def attribute(oid: str, tag: int, value: bytes) -> bytes:
    return tlv(0x31, seq(tlv(0x06, bytes.fromhex(oid)), tlv(tag, value)))


def named(text: str) -> bytes:
    return seq(attribute("550403", 0x0C, text.encode()))


def spki(key) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate(
    subject: bytes = named("odd"),
    *,
    version: bytes = b"\xa0\x03\x02\x01\x02",
    serial: bytes = integer(4711),
    algorithm: bytes = seq(ECDSA),
    times: tuple[bytes, bytes] = (tlv(0x17, b"260101000000Z"), tlv(0x17, b"460101000000Z")),
    public: bytes = b"",
    more: bytes = b"",
) -> bytes:
    public = public or spki(SIGNER.public_key())
    tbs = seq(version, serial, algorithm, named("a CA"), seq(*times), subject, public, more)
    return seq(tbs, algorithm, bits(SIGNER.sign(tbs, ec.ECDSA(hashes.SHA256()))))


def armored(value: bytes, label: str = "CERTIFICATE") -> bytes:
    text = base64.encodebytes(value).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode()


def of_algorithm(oid: str, parameters: bytes = b"", key: bytes = bytes(64)) -> bytes:
    return certificate(public=seq(seq(tlv(0x06, bytes.fromhex(oid)), parameters), bits(key)))


_DSA = dsa.generate_private_key(1024).public_key()
_DSA_INFO = [*elements(whole(spki(_DSA)).content)]
_INHERITED = seq(seq(tlv(0x06, bytes.fromhex("2a8648ce380401"))), _DSA_INFO[1].whole)

# What there is to say of each beside "CN=odd", serial number 1267 and an end in 2046
ODD: dict[str, tuple[bytes, dict[str, str]]] = {
    "explicit v1": (certificate(version=b"\xa0\x03\x02\x01\x00"), {}),
    "v1": (certificate(version=b""), {}),
    "v2": (certificate(version=b"\xa0\x03\x02\x01\x01"), {}),
    "v4": (certificate(version=b"\xa0\x03\x02\x01\x03"), {}),
    "v2 with unique identifiers": (certificate(version=b"\xa0\x03\x02\x01\x01", more=tlv(0x81, b"\0\1")), {}),
    "serial 0": (certificate(serial=integer(0)), {"serial_number": "0"}),
    "serial -5": (certificate(serial=integer(-5)), {"serial_number": "-5"}),
    "long serial": (certificate(serial=integer(1 << 400)), {"serial_number": f"{1 << 400:x}"}),
    "ECDSA with NULL": (certificate(algorithm=seq(ECDSA, NULL)), {}),
    "unknown signature": (certificate(algorithm=seq(bytes.fromhex("0603550101"))), {}),
    "ML-DSA-44": (of_algorithm("608648016503040311", key=bytes(1312)), {}),
    "SLH-DSA": (of_algorithm("608648016503040314", key=bytes(32)), {}),
    "composite": (of_algorithm("6086480186fa6b50080101", key=bytes(1600)), {}),
    "GOST": (of_algorithm("2a85030701010101", seq(bytes.fromhex("06072a850302022301")), tlv(0x04, bytes(64))), {}),
    "SM2": (of_algorithm("2a8648ce3d0201", bytes.fromhex("06082a811ccf5501822d"), b"\4" + bytes(64)), {}),
    "Ed448": (of_algorithm("2b6571", key=bytes(57)), {}),
    "inherited DSA parameters": (certificate(public=_INHERITED), {}),
    "no such point": (of_algorithm("2a8648ce3d0201", P256, b"\4" + bytes(64)), {}),
    "empty key": (of_algorithm("2a8648ce3d0201", P256, b""), {}),
    "no seconds": (certificate(times=(tlv(0x17, b"2601010000Z"), tlv(0x17, b"4601010000Z"))), {}),
    "another zone": (
        certificate(times=(tlv(0x17, b"260101000000Z"), tlv(0x17, b"460101020000+0200"))),
        {"not_after": "2046-01-01T00:00:00+00:00"},
    ),
    "year 0": (
        certificate(times=(tlv(0x18, b"00000101000000Z"), tlv(0x17, b"460101000000Z"))),
        {"not_before": "0000-01-01T00:00:00+00:00"},
    ),
    "month 13": (
        certificate(times=(tlv(0x17, b"261301000000Z"), tlv(0x17, b"460101000000Z"))),
        {"not_before": "261301000000Z"},
    ),
    "no time": (certificate(times=(tlv(0x04, b"now"), tlv(0x17, b"460101000000Z"))), {}),
    "Teletex": (certificate(seq(attribute("550403", 0x14, b"M\xfcnchen"))), {"subject": "CN=M\u00fcnchen"}),
    "BMP": (certificate(seq(attribute("550403", 0x1E, "Köln".encode("utf-16-be")))), {"subject": "CN=Köln"}),
    "Universal": (certificate(seq(attribute("550403", 0x1C, "ž".encode("utf-32-be")))), {"subject": "CN=ž"}),
    "UTF-8 that is none": (certificate(seq(attribute("550403", 0x0C, b"\xff"))), {"subject": "CN=\ufffd"}),
    "a number for a name": (certificate(seq(attribute("550403", 0x02, b"\7"))), {"subject": "CN=#020107"}),
    "an unknown attribute": (certificate(seq(attribute("2a0304", 0x13, b"x"))), {"subject": "1.2.3.4=x"}),
    "an empty RDN": (certificate(seq(tlv(0x31))), {"subject": ""}),
    "no subject": (certificate(seq()), {"subject": ""}),
    "a subject of 2000 characters": (certificate(named("x" * 2000)), {"subject": "CN=" + "x" * 2000}),
    "a line in the subject": (certificate(named("a\nb\x1b[31m")), {"subject": "CN=a\ufffdb\ufffd[31m"}),
    "special characters": (
        certificate(named(' a,b+"c"\\d;<e> ')),
        {"subject": 'CN=\\ a\\,b\\+\\"c\\"\\\\d\\;\\<e\\>\\ '},
    ),
    "no extensions in theirs": (certificate(more=tlv(0xA3, seq())), {}),
    "extensions that are none": (certificate(more=tlv(0xA3, tlv(0x04, b"x"))), {}),
    "the same extension twice": (certificate(more=tlv(0xA3, seq(seq(bytes.fromhex("0603551d0f"), tlv(4)) * 2))), {}),
}
