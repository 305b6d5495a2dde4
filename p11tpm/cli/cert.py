"""``p11tpm cert``: X.509 certificates that stand beside the keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from asn1crypto import pem

from p11tpm.attribute import TRUE, ulong
from p11tpm.ck import CKA, CKC, CKO, CKR
from p11tpm.cli import x509
from p11tpm.cli.certfile import read_certificate
from p11tpm.cli.key import check_label
from p11tpm.cli.machine import Machine, objects, select, token_option
from p11tpm.cli.numbers import same_key
from p11tpm.cli.output import as_label, as_text, confirm, example, json_option, print_json, print_listing, printable
from p11tpm.cli.pair import pairs
from p11tpm.cli.uri import CERTIFICATE, object_uri, token_uri
from p11tpm.crypto import der
from p11tpm.error import Error
from p11tpm.keys.create import create_object

if TYPE_CHECKING:
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token


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
        """Describe it for a person."""
        says = self.described()
        return (
            self.name,
            says.get("subject", "not readable") or "no subject",
            f"until {says.get('not_after', '?')[:10]}",
            f"id {self.id.hex()}",
        )

    def described(self) -> dict[str, str]:
        """Return everything about it, for programs; times are in UTC. Other objects have a name only."""
        known = {"label": as_label(self.label), "id": self.id.hex(), "uri": self.uri}
        try:
            certificate = der.Certificate(self._value)
        except Error:  # only its address is in the token, or another program stored something else
            return known
        return {**known, **x509.described(certificate), "pem": pem.armor("CERTIFICATE", self._value).decode()}


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
        thing = _store(machine, token, read_certificate(file), label, printable(file.stem))
        click.echo(Certificate(token_uri(token.row), thing).uri)


def _store(machine: Machine, token: Token, value: bytes, label: str | None, file_name: str) -> Object:
    if objects(token, CKO.CERTIFICATE, value=value):
        raise Error(CKR.ARGUMENTS_BAD, "the token has this certificate already: see 'p11tpm cert list'")
    info = der.Certificate(value).public_key
    owners = [one for one in pairs(machine, token) if same_key(one.info, info)]
    if owners:
        id_, default = owners[0].id, owners[0].label
    else:
        id_, default = der.PublicKey(info).identifier, file_name.encode()
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
    return token.objects.get(made)


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
