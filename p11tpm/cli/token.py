"""``p11tpm token``: tokens, each with its PINs and keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from p11tpm.ck import CKF
from p11tpm.cli import binding, prompt
from p11tpm.cli.machine import Machine
from p11tpm.cli.output import confirm, example, json_option, print_json, print_listing, printable, say, wait
from p11tpm.cli.pair import pairs
from p11tpm.cli.uri import token_uri

if TYPE_CHECKING:
    from pathlib import Path

    from p11tpm.core.binding import Wish
    from p11tpm.core.token import Token

_PIN_STATES = (
    (CKF.USER_PIN_LOCKED, "locked"),
    (CKF.USER_PIN_FINAL_TRY, "last try"),
    (CKF.USER_PIN_COUNT_LOW, "wrong PIN counted"),
    (CKF.USER_PIN_INITIALIZED, "set"),
)


@click.group(epilog=example("p11tpm token create --label web", "p11tpm token list"))
def token() -> None:
    """Make, list, bind and delete tokens. Most people need one, and 'p11tpm init' makes it."""


for command in (binding.bind, binding.unbind, binding.reseal, binding.recover):
    token.add_command(command)


@token.command("list", epilog=example("p11tpm token list --json"))
@json_option
def list_(*, as_json: bool) -> None:
    """List the tokens, each with its PKCS#11 URI."""
    with Machine() as machine:
        if as_json:
            print_json([_described(machine, one) for one in machine.tokens])
        else:
            print_listing([_line(machine, one) for one in machine.tokens])


def _pin_state(one: Token) -> str:
    flags = one.flags(one.row)
    if not flags & CKF.LOGIN_REQUIRED:
        return "none"
    return next((state for flag, state in _PIN_STATES if flags & flag), "not set")


def _keys(machine: Machine, one: Token) -> str:
    count = len(pairs(machine, one))
    return "1 key" if count == 1 else f"{count} keys"


def _line(machine: Machine, one: Token) -> tuple[tuple[str, ...], tuple[str, ...]]:
    columns = (
        printable(one.label),
        _keys(machine, one),
        f"PIN: {_pin_state(one)}",
        binding.bound_to(one),
        "" if machine.is_shown(one) else "not shown to programs",
    )
    return columns, (token_uri(one.row),)


def _described(machine: Machine, one: Token) -> dict[str, object]:
    row = one.row
    return {
        "label": row.label.encode(errors="surrogateescape").decode(errors="replace"),
        "serial": row.serial,
        "pin": _pin_state(one),
        "keys": len(pairs(machine, one)),
        "policy": binding.described_json(row),
        "shown": machine.is_shown(one),
        "tpm": row.tpm,
        "capabilities": list(one.capabilities),
        "created": datetime.fromtimestamp(row.created, UTC).isoformat(),
        "uri": token_uri(row),
    }


@token.command(epilog=example("p11tpm token create --label work", "p11tpm token create --label web --no-pin"))
@click.option("--label", required=True, help="The name of the new token, up to 32 bytes.")
@prompt.pin_file_option
@prompt.so_pin_file_option
@prompt.no_pin_option
@binding.binding_options
def create(label: str, pin_file: Path | None, so_pin_file: Path | None, wish: Wish | None, *, no_pin: bool) -> None:
    """Make a token without keys and print its PKCS#11 URI.

    Asks for a PIN and, if you want one, for an SO PIN. With --pin-file, or 'pin-file' in p11tpm.conf, nothing is asked.
    A token that is bound to the machine's state (see 'p11tpm token bind') has a recovery code, on a line of its own.
    """
    with Machine() as machine:
        so_pin, pin = new_pins(machine, label, pin_file, so_pin_file, wish, no_pin=no_pin)
        one = wait("The TPM makes a token", lambda: machine.add(label, so_pin, pin, wish))
        click.echo(token_uri(one.row))
        binding.show_code(wish)
        say_if_hidden(machine, one)


def say_if_hidden(machine: Machine, one: Token) -> None:
    """Print what to do if programs are not shown a token."""
    if not machine.is_shown(one):
        say(f"programs are not shown this token: write 'token = {one.label}', or 'token = *', in p11tpm.conf")


def new_pins(
    machine: Machine,
    label: str,
    pin_file: Path | None,
    so_pin_file: Path | None,
    wish: Wish | None,
    *,
    no_pin: bool,
) -> tuple[bytes | None, bytes | None]:
    """Read the SO PIN and the PIN for a new token, once it is clear that there can be one with this label."""
    if no_pin and (pin_file or so_pin_file):
        raise click.UsageError("--no-pin and a PIN file contradict each other.")
    machine.check_new_label(label)
    machine.check_tpm(wish)
    if no_pin:
        return None, None
    known = None if pin_file else machine.pin_of_new(label)
    return prompt.new_pair(pin_file, so_pin_file, machine.config.pin_min, known)


@token.command(epilog=example("p11tpm token delete web"))
@click.argument("label")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(label: str, *, yes: bool) -> None:
    """Delete a token and all of its keys for ever."""
    with Machine() as machine:
        one = machine.token(label)
        confirm(f"Delete token '{printable(one.label)}' with {_keys(machine, one)} for ever?", yes=yes)
        one.delete()
