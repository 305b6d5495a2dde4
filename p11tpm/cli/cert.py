"""``p11tpm cert``: X.509 certificates that stand beside the keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from asn1crypto.keys import PublicKeyInfo
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from p11tpm import der
from p11tpm.attribute import TRUE, ulong
from p11tpm.ck import CKA, CKC, CKO, CKR
from p11tpm.cli.key import check_label
from p11tpm.cli.machine import Machine, objects, select, token_option
from p11tpm.cli.output import as_text, confirm, example, json_option, print_json, print_listing, printable
from p11tpm.cli.pair import pairs
from p11tpm.cli.uri import CERTIFICATE, object_uri, token_uri
from p11tpm.error import Error
from p11tpm.operation.create import create_object

if TYPE_CHECKING:
    from p11tpm.object import Object
    from p11tpm.token import Token

_LARGEST = 1 << 20  # bytes of a file with one certificate, generously


class Certificate:
    """A certificate object of a token, as something to show."""

    def __init__(self, token: str, thing: Object) -> None:
        self.object = thing.record.id
        self.id = thing.get(CKA.ID)
        self.label = thing.get(CKA.LABEL)
        self.uri = object_uri(token, self.id, self.label, CERTIFICATE)
        self._value = thing.get(CKA.VALUE)

    @property
    def name(self) -> str:
        """The label, or the id of a certificate without one."""
        return as_text(self.label) or self.id.hex()

    def line(self) -> tuple[str, ...]:
        """Say what matters of it, for a person."""
        says = self.described()
        return (
            self.name,
            says.get("subject", "not readable"),
            f"until {says.get('not_after', '?')[:10]}",
            f"id {self.id.hex()}",
        )

    def described(self) -> dict[str, str]:
        """Say everything about it, for programs; times are in UTC. What is no certificate has no more than a name."""
        known = {"label": self.label.decode(errors="replace"), "id": self.id.hex(), "uri": self.uri}
        try:
            certificate = x509.load_der_x509_certificate(self._value)
            return {
                **known,
                "subject": printable(certificate.subject.rfc4514_string()),
                "issuer": printable(certificate.issuer.rfc4514_string()),
                "serial_number": f"{certificate.serial_number:x}",
                "not_before": certificate.not_valid_before_utc.isoformat(),
                "not_after": certificate.not_valid_after_utc.isoformat(),
                "pem": certificate.public_bytes(Encoding.PEM).decode(),
            }
        except ValueError:  # other programs may store what they like
            return known


@click.group(epilog=example("p11tpm cert import web.pem", "p11tpm cert list"))
def cert() -> None:
    """Import, list and delete certificates. None of this needs a PIN.

    CERT is a certificate's label or its id in hexadecimal.
    """


@cert.command("import", epilog=example("p11tpm cert import web.pem"))
@click.argument("file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option("--label", help="Its name; by default that of the key it is for, else the file's.")
@token_option
def import_(file: Path, label: str | None, token_label: str | None) -> None:
    """Store a certificate, PEM or DER, under the id of the key that it is for, and print its PKCS#11 URI."""
    with Machine() as machine:
        token = machine.token(token_label)
        if label is not None:
            check_label(label)
        thing = _store(machine, token, _read(file), label, printable(file.stem))
        click.echo(Certificate(token_uri(token.row), thing).uri)


def _read(file: Path) -> x509.Certificate:
    with file.open("rb") as source:
        content = source.read(_LARGEST)
    try:
        if b"-----BEGIN" not in content:
            return x509.load_der_x509_certificate(content)
        found = x509.load_pem_x509_certificates(content)
    except ValueError:
        raise Error(CKR.ARGUMENTS_BAD, f"{file} is no X.509 certificate, neither in PEM nor in DER") from None
    if len(found) > 1:
        raise Error(
            CKR.ARGUMENTS_BAD, f"{file} holds {len(found)} certificates: put the one to import in a file of its own"
        )
    return found[0]


def _store(machine: Machine, token: Token, certificate: x509.Certificate, label: str | None, file_name: str) -> Object:
    value = certificate.public_bytes(Encoding.DER)
    if objects(token, CKO.CERTIFICATE, value=value):
        raise Error(CKR.ARGUMENTS_BAD, "the token has this certificate already: see 'p11tpm cert list'")
    info = der.certificate(value)[CKA.PUBLIC_KEY_INFO]
    owners = [one for one in pairs(machine, token) if one.info == info]
    if owners:
        id_, default = owners[0].id, owners[0].label
    else:
        id_, default = PublicKeyInfo.load(info).sha1, file_name.encode()  # RFC 5280 clause 4.2.1.2, method 1
    made = create_object(
        token,
        {
            CKA.CLASS: ulong(CKO.CERTIFICATE),
            CKA.CERTIFICATE_TYPE: ulong(CKC.X_509),
            CKA.TOKEN: TRUE,
            CKA.ID: id_,
            CKA.LABEL: default if label is None else label.encode(),
            CKA.VALUE: value,
        },
    )
    return token.object(made)


def _certificates(token: Token) -> list[Certificate]:
    place = token_uri(token.row)
    return [Certificate(place, thing) for thing in objects(token, CKO.CERTIFICATE)]


@cert.command("list", epilog=example("p11tpm cert list --json"))
@token_option
@json_option
def list_(token_label: str | None, *, as_json: bool) -> None:
    """List the certificates of a token, each with its PKCS#11 URI."""
    with Machine() as machine:
        token = machine.token(token_label)
        found = _certificates(token)
        if as_json:
            print_json([one.described() for one in found])
        else:
            print_listing([(one.line(), (one.uri,)) for one in found])


@cert.command(epilog=example("p11tpm cert delete web"))
@click.argument("wanted", metavar="CERT")
@token_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(wanted: str, token_label: str | None, *, yes: bool) -> None:
    """Delete a certificate. The key that it is for stays."""
    with Machine() as machine:
        token = machine.token(token_label)
        one = select(token, "cert", _certificates(token), wanted)
        confirm(f"Delete certificate '{one.name}' (id {one.id.hex()})?", yes=yes)
        token.destroy(one.object)
