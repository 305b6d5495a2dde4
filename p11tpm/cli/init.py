"""``p11tpm init``: from nothing to a token with a first key."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

import click

from p11tpm.ck import CKR, CKU
from p11tpm.cli import binding, key, module, prompt, token
from p11tpm.cli.machine import Machine
from p11tpm.cli.output import example, printable, wait
from p11tpm.error import Error

if TYPE_CHECKING:
    from pathlib import Path

    from p11tpm.cli.logged import LoggedToken
    from p11tpm.cli.pair import Pair
    from p11tpm.core.binding import Wish


@click.command(epilog=example("p11tpm init", "p11tpm init --label work --key-label laptop --algorithm rsa2048"))
@click.option("--label", default="p11tpm", show_default=True, help="The name of the token, up to 32 bytes.")
@click.option("--key-label", default="ssh", show_default=True, help="The name of the key.")
@key.algorithm_option
@prompt.pin_file_option
@prompt.so_pin_file_option
@prompt.no_pin_option
@binding.binding_options
def init(
    label: str,
    key_label: str,
    algorithm: str,
    pin_file: Path | None,
    so_pin_file: Path | None,
    wish: Wish | None,
    *,
    no_pin: bool,
) -> None:
    """Make a token with a first key, and say how to use it with ssh.

    Asks for a PIN and, if you want one, for an SO PIN. With --pin-file, or 'pin-file' in p11tpm.conf, nothing is asked.
    With --pcr or --signed-pcr the token opens only in a state of the machine: see 'p11tpm token bind'.
    """
    with Machine() as machine:
        if machine.tokens:
            there = printable(machine.tokens[0].label)
            raise Error(
                CKR.ARGUMENTS_BAD,
                f"there is already a token '{there}': add a key with 'p11tpm key generate --label NAME'",
            )
        key.check_label(key_label)
        so_pin, pin = token.new_pins(machine, label, pin_file, so_pin_file, wish, no_pin=no_pin)
        one = wait("The TPM makes a token", lambda: machine.add(label, so_pin, pin, wish))
        try:
            first = _first_key(machine, one, pin, key_label, algorithm)
        except BaseException:
            one.delete()  # half an init would stand in the way of the next one
            raise
        click.echo(_next_steps(one.label, first, module.path()))
        binding.show_code(wish)
        token.say_if_hidden(machine, one)


def _first_key(machine: Machine, one: LoggedToken, pin: bytes | None, label: str, algorithm: str) -> Pair:
    key.check(machine, one, label, algorithm)
    if pin is not None:
        one.login(CKU.USER, pin)
    return key.make(one, label, algorithm)


def _next_steps(label: str, first: Pair, path: str) -> str:
    return f"""\
Token '{printable(label)}' has a first key, '{first.name}' ({first.algorithm}).

1. Add this line to ~/.ssh/authorized_keys on the host:
{first.openssh()}

2. Log in:
ssh -I {quote(path)} HOST

3. To do so without -I, add this to ~/.ssh/config:
Host HOST
    PKCS11Provider {config_quote(path)}

Or hand the key to ssh-agent, and type the PIN once:
ssh-add -s {quote(path)}

How other programs use the token: p11tpm recipe"""


def config_quote(path: str) -> str:
    """Quote an argument as ssh_config(5) says."""
    return f'"{path}"' if any(character.isspace() for character in path) else path
