"""``p11tpm key``: key pairs whose private half never leaves the TPM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p11tpm.algorithm import CURVES
from p11tpm.attribute import TRUE, ulong
from p11tpm.ck import CKA, CKM, CKR
from p11tpm.cli.binding import bound_to
from p11tpm.cli.condition import Condition, condition_options, limits_of
from p11tpm.cli.machine import Machine, has_key, select, token_option
from p11tpm.cli.output import as_label, confirm, example, json_option, print_json, print_listing, printable, wait
from p11tpm.cli.pair import Pair, pairs
from p11tpm.cli.prompt import owner_auth_file_option, pin_file_option, read
from p11tpm.cli.uri import token_uri
from p11tpm.error import Error
from p11tpm.given import Given
from p11tpm.mechanism import RSA_SIZES

if TYPE_CHECKING:
    from pathlib import Path

    from p11tpm.cli.logged import LoggedToken
    from p11tpm.core.token import Token

# Weaker algorithms are for programs that ask for them
ALGORITHMS = tuple(name for name, curve in CURVES.items() if curve.bits >= 256) + tuple(
    f"rsa{bits}" for bits in RSA_SIZES if bits >= 2048
)
algorithm_option = click.option(
    "--algorithm", type=click.Choice(ALGORITHMS), default="p256", show_default=True, help="What kind of key."
)
_key_argument = click.argument("wanted", metavar="[KEY]", required=False)


@click.group(epilog=example("p11tpm key generate --label web --algorithm rsa2048", "p11tpm key list"))
def key() -> None:
    """Make, list and delete key pairs.

    KEY is a key's label or its id in hexadecimal; it may be left out if there is only one key.
    """


@key.command(epilog=example("p11tpm key generate --label web --algorithm rsa2048"))
@click.option("--label", required=True, help="The name of the new key.")
@algorithm_option
@condition_options
@token_option
@pin_file_option
def generate(
    label: str, algorithm: str, condition: Condition | None, token_label: str | None, pin_file: Path | None
) -> None:
    """Make a key pair in the TPM and print its PKCS#11 URI.

    A key may have an end, or work only while a key of yours has signed the state of the machine: the TPM checks it at
    each use. It has that for ever, and what is over never works again.
    """
    with Machine() as machine:
        token = machine.token(token_label)
        check(machine, token, label, algorithm)
        machine.log_in(token, pin_file)
        click.echo(make(token, label, algorithm, condition).uri)


def check(machine: Machine, token: Token, label: str, algorithm: str) -> None:
    """Refuse a key that the TPM does not have, or a label that another key has, before anybody types a PIN."""
    check_label(label)
    if algorithm not in token.capabilities:
        there = " ".join(word for word in ALGORITHMS if word in token.capabilities)
        raise Error(CKR.KEY_SIZE_RANGE, f"this TPM makes no {algorithm} keys; it makes: {there}")
    if has_key(machine, token, label):
        raise Error(CKR.ARGUMENTS_BAD, f"there is already a key '{label}': choose another --label")


def check_label(label: str) -> None:
    """Refuse a label that could not be printed on a line."""
    if not label.strip() or label != printable(label):
        raise click.UsageError(f"A key's label is printable text: {printable(label)!r} is not.")


def make(token: LoggedToken, label: str, algorithm: str, condition: Condition | None = None) -> Pair:
    """Make a key pair in the TPM, for whoever is logged in."""
    shared = {CKA.TOKEN: TRUE, CKA.LABEL: label.encode()}
    limits = condition.attributes(token) if condition else {}
    if algorithm in CURVES:
        mechanism, size = CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: CURVES[algorithm].params}
    else:
        mechanism = CKM.RSA_PKCS_KEY_PAIR_GEN
        size = {CKA.MODULUS_BITS: ulong(int(algorithm.removeprefix("rsa")))}
    public, private = wait(
        f"The TPM makes a key of type {algorithm}",
        lambda: token.generate_pair(Given(mechanism), {**shared, **size}, {**shared, **limits}),
    )
    return Pair(token_uri(token.row), token.objects.get(public), token.objects.get(private))


@key.command("list", epilog=example("p11tpm key list --json"))
@token_option
@json_option
def list_(token_label: str | None, *, as_json: bool) -> None:
    """List the keys of a token, each with its PKCS#11 URI. Needs no PIN."""
    with Machine() as machine:
        token = machine.token(token_label)
        keys = pairs(machine, token)
        if as_json:
            print_json([_described(one) for one in keys])
        else:
            bound = bound_to(token)
            print_listing([_line(one, bound) for one in keys])


def _line(one: Pair, bound: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    elsewhere = "in software" if one.private else "public key only"
    where = f"resident at {one.resident:#x}" if one.resident else "" if one.in_tpm else elsewhere
    limits = ", ".join(filter(None, (bound, limits_of(one.private))))
    return (one.name, one.algorithm, f"id {one.id.hex()}", where, limits), (one.uri,)


def _described(one: Pair) -> dict[str, str | bool | None]:
    return {
        "label": as_label(one.label),
        "id": one.id.hex(),
        "algorithm": one.algorithm,
        "in_tpm": one.in_tpm,
        "resident": f"{one.resident:#x}" if one.resident else None,
        "limits": limits_of(one.private) or None,
        "uri": one.uri,
        "openssh": _openssh(one),
    }


def _openssh(one: Pair) -> str:
    try:
        return one.openssh()
    except Error:
        return ""


@key.command(epilog=example("p11tpm key public ssh | ssh HOST 'cat >> .ssh/authorized_keys'"))
@_key_argument
@click.option(
    "--format", "form", type=click.Choice(["openssh", "pem"]), default="openssh", show_default=True, help="Which form."
)
@token_option
def public(wanted: str | None, form: str, token_label: str | None) -> None:
    """Print the public half of a key. Needs no PIN."""
    with Machine() as machine:
        token = machine.token(token_label)
        one = select(token, "key", pairs(machine, token), wanted)
        click.echo(one.openssh() if form == "openssh" else one.pem())


@key.command(epilog=example("p11tpm key delete web"))
@click.argument("wanted", metavar="KEY")
@token_option
@pin_file_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(wanted: str, token_label: str | None, pin_file: Path | None, *, yes: bool) -> None:
    """Delete a key pair for ever. Certificates stay."""
    with Machine() as machine:
        token = machine.token(token_label)
        one = select(token, "key", pairs(machine, token), wanted)
        confirm(f"Delete key '{one.name}' ({one.algorithm}, id {one.id.hex()}) for ever?", yes=yes)
        if one.private:
            machine.log_in(token, pin_file)
        token.destroy(*(half.record.id for half in one.halves))


@key.command(epilog=example("p11tpm key resident web", "p11tpm key resident web --undo"))
@_key_argument
@click.option("--undo", is_flag=True, help="Take the key out of the TPM; it goes on working as any other.")
@owner_auth_file_option
@token_option
@pin_file_option
def resident(
    wanted: str | None, owner_auth_file: Path | None, token_label: str | None, pin_file: Path | None, *, undo: bool
) -> None:
    """Keep a busy key in the TPM, so that it is not loaded again and again. A TPM has room for a few.

    Prints the persistent handle of the key.
    """
    with Machine() as machine:
        token = machine.token(token_label)
        one = select(token, "key", pairs(machine, token), wanted)
        owner_auth = read(owner_auth_file, "owner's authorisation value") if owner_auth_file else b""
        machine.log_in(token, pin_file)
        if one.private is None:
            raise Error(CKR.ARGUMENTS_BAD, f"'{one.name}' is not a key in the TPM")
        if undo:
            token.end_residence(one.private.record.id, owner_auth)
        else:
            click.echo(f"{token.keep_resident(one.private.record.id, owner_auth):#x}")
