"""Files with a certificate, in PEM or DER, and advice about other files."""

from __future__ import annotations

import binascii
import re
from contextlib import suppress
from itertools import islice
from shlex import quote
from typing import TYPE_CHECKING

from p11tpm.ck import CKR
from p11tpm.crypto.der import SEQUENCE, SET, Certificate, elements
from p11tpm.error import Error

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST = 64 << 20  # bytes of a file with one certificate, and text before it: generously
_BLOCK = re.compile(rb"-----BEGIN ([ -,.-~]+)-----\s(.*?)-----END \1-----", re.DOTALL)
_CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE")
_CONSTRUCTED = {SEQUENCE, SET}
_TRUSTED = "TRUSTED CERTIFICATE"  # OpenSSL's: behind the certificate is what it is trusted for

# Files that are often taken for a certificate, and the remedy
_PRIVATE = ("a private key", "the keys of a token are made in it: 'p11tpm key generate'")
_PUBLIC = ("a public key", "import the certificate that an authority made for it")
_REQUEST = ("a certificate request", "send it to your authority, and import the certificate that comes back")
_REVOKED = ("a certificate revocation list", "it is for the programs that check certificates; no token has one")
_PKCS7 = ("a PKCS #7 file", "openssl pkcs7 -print_certs -in {} -out certs.pem, for DER with -inform DER")
_PKCS12 = ("a PKCS #12 file", "openssl pkcs12 -nokeys -clcerts -in {} -out cert.pem")
_JAVA = ("a Java key store", "keytool -exportcert -rfc -keystore {} -alias NAME -file cert.pem")
_SSH = ("an SSH key or certificate", "ssh reads it from its file, see CertificateFile in ssh_config(5)")
_PGP = ("an OpenPGP key", "it is for GnuPG")
_PARAMETERS = ("parameters of keys", "import a certificate")

_LABELS = (  # of PEM: RFC 7468, RFC 4716, and those of OpenSSL and others
    (r".*PRIVATE KEY.*", _PRIVATE),
    (r".*CERTIFICATE REQUEST", _REQUEST),
    (r".*CRL", _REVOKED),
    (r"PKCS ?#?7.*|CMS", _PKCS7),
    (r"PGP .*", _PGP),
    (r".*PARAMETERS", _PARAMETERS),
    (r".*PUBLIC KEY", _PUBLIC),
)
_START = 200  # characters that say what a file is
_STARTS = (
    (r"\s*(ssh-|ecdsa-sha2-|sk-ssh-|sk-ecdsa-)\S+ +AAAA|\s*---- BEGIN SSH2 ", _SSH),
    (r"\xfe\xed\xfe\xed|\xce\xce\xce\xce", _JAVA),
)
_SHAPES = (  # of DER, as _shape() has it: RFC 7292, 5652, 2986, 5280, 5958, 8017, 5915
    (r"30\(02,30\(06,a0\).*", _PKCS12),
    (r"30\(06,a0.*", _PKCS7),
    (r"30\(30\(02,30,30(,a0)?\),30\(.*\),03\)", _REQUEST),
    (r"30\(30\((02,)?30,30,1[78].*\),30\(.*\),03\)", _REVOKED),
    (r"30\(02,30\(06.*\),04.*|30\(30\(06.*\),04\)|30\(02(,02){4,}.*|30\(02,04.*", _PRIVATE),
    (r"30\(30\(06.*\),03\)|30\(02,02\)", _PUBLIC),
)


def read_certificate(file: Path) -> bytes:
    """Read the only certificate of a file; text, comments and keys beside it are left alone.

    Raises CKR_ARGUMENTS_BAD with what is in the file instead, and what to do.
    """
    with file.open("rb") as source:
        content = source.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise Error(CKR.ARGUMENTS_BAD, f"{file} has more than {_LARGEST >> 20} MiB: import a file with the certificate")
    blocks = [(label.decode(), text) for label, text in _BLOCK.findall(content)]
    found = [_certificate(label, text) for label, text in blocks if label in _CERTIFICATES]
    if len(found) > 1:
        raise Error(
            CKR.ARGUMENTS_BAD, f"{file} holds {len(found)} certificates: put the one to import in a file of its own"
        )
    value = found[0] if found else content
    try:
        Certificate(value)
    except Error:
        raise Error(
            CKR.ARGUMENTS_BAD, f"{file} {_known(value, [] if found else blocks).format(quote(str(file)))}"
        ) from None
    return value


def _certificate(label: str, text: bytes) -> bytes:
    """Decode a block of PEM, without the headers that some programs write (RFC 1421); empty if it is not base64."""
    head, blank, body = text.replace(b"\r\n", b"\n").partition(b"\n\n")
    try:
        value = binascii.a2b_base64(body if blank and b":" in head else text)
        return next(elements(value)).whole if label == _TRUSTED else value
    except (ValueError, StopIteration):
        return b""


def _known(value: bytes, blocks: list[tuple[str, bytes]]) -> str:
    """Return what it is that is not a certificate, and what to do with it."""
    start = value[:_START].decode("latin-1")
    for table, texts in (
        (_LABELS, [label for label, _ in blocks]),
        (_STARTS, [start]),
        (_SHAPES, [_shape(value, 3)]),
    ):
        for pattern, (what, remedy) in table:
            if any(re.match(pattern, text) for text in texts):
                return f"is {what}, not a certificate: {remedy}"
    with suppress(Error, ValueError, StopIteration):
        Certificate(next(elements(value)).whole)
        return "is an X.509 certificate with something behind it: import a file with the certificate alone"
    return "is not an X.509 certificate, neither in PEM nor in DER"


def _shape(data: bytes, levels: int) -> str:
    """Write the tags of the first elements of DER, in hexadecimal, with those inside them in brackets."""
    tags = []
    try:
        for one in islice(elements(data), 12):
            inside = _shape(one.content, levels - 1) if one.tag in _CONSTRUCTED and levels > 1 else ""
            tags.append(f"{one.tag:02x}({inside})" if inside else f"{one.tag:02x}")
    except ValueError:
        tags.append("?")
    return ",".join(tags)
