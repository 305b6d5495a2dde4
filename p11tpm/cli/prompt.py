"""Where PINs come from: the terminal, without echo, or a file that nobody else can read. Never the command line."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p11tpm.ck import CKR
from p11tpm.core.pin import check_new
from p11tpm.core.pin_file import PinFile
from p11tpm.error import Error

if TYPE_CHECKING:
    from collections.abc import Iterator

_ATTEMPTS = 3
_SECRET = click.Path(dir_okay=False, path_type=Path, allow_dash=True)

pin_file_option = click.option(
    "--pin-file",
    type=_SECRET,
    help="Read the PIN from this file (mode 600; '-' is stdin) instead of asking for it; by default "
    "the file of the setting 'pin-file'.",
)
owner_auth_file_option = click.option(
    "--owner-auth-file",
    type=_SECRET,
    help="Read the authorisation value of the TPM's owner, if there is one, from this file (mode 600; '-' is stdin).",
)
so_pin_file_option = click.option(
    "--so-pin-file",
    type=_SECRET,
    help="Read the SO PIN (it sets a new PIN when the PIN is lost) from this file (mode 600; '-' is stdin).",
)
recovery_file_option = click.option(
    "--recovery-file",
    type=_SECRET,
    help="Read the recovery code from this file (mode 600; '-' is stdin) instead of asking for it.",
)
no_pin_option = click.option(
    "--no-pin",
    is_flag=True,
    help="Make a token without a PIN, for services. Anyone who can read the store can use the keys on this machine.",
)


def existing(what: str, file: Path | None) -> bytes:
    """Read a PIN that the token knows: from `file`, or by asking for `what` once."""
    return read(file) if file else _ask(what)


def new(what: str, file: Path | None, shortest: int, *, optional: bool = False) -> bytes | None:
    """Read a PIN that is to be set, at least `shortest` bytes long: from `file`, or by asking twice for `what`.

    None if an `optional` one was left empty.
    """
    if file:
        pin = read(file)
        check_new(pin, shortest)
        return pin
    for _ in range(_ATTEMPTS):
        pin = _ask(f"New {what}")
        if optional and not pin:
            return None
        try:
            check_new(pin, shortest)
        except Error as error:
            click.echo(f"{error.why}; try again", err=True)
            continue
        if _ask(f"{what} again") == pin:
            return pin
        click.echo("the two differ; try again", err=True)
    raise Error(CKR.PIN_INVALID, f"no {what} was set in {_ATTEMPTS} attempts; nothing was changed")


def new_pair(
    pin_file: Path | None, so_pin_file: Path | None, shortest: int, known: bytes | None = None
) -> tuple[bytes | None, bytes | None]:
    """Read the SO PIN and the PIN of a new token, which may be `known`.

    Who gives just a PIN file, here or in the configuration, makes a token without SO PIN.
    """
    pin = known or new("PIN", pin_file, shortest)
    if (known or pin_file) and not so_pin_file:
        return None, pin
    if not so_pin_file:
        click.echo(
            "The SO PIN sets a new PIN when the PIN is lost; it opens no key. Leave it empty for none.", err=True
        )
    return new("SO PIN", so_pin_file, shortest, optional=True), pin


def read(file: Path, what: str = "PIN") -> bytes:
    """Read the PIN, or `what`, that is the only line of a file, as `PinFile` says, or all that comes from a pipe."""
    descriptor = _stdin() if str(file) == "-" else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return PinFile(str(file), what).take(descriptor)
    finally:
        os.close(descriptor)


def _stdin() -> int:
    if sys.stdin is None:  # it was closed when Python started; by now the descriptor may be any file
        raise Error(CKR.ARGUMENTS_BAD, "standard input is closed: give the PIN in a file, or by a pipe")
    return os.dup(0)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make Ctrl-C end a question, also where SIGINT is ignored, as it is for what a script starts with `&`.

    Who types it looks at this question and has no other way out. So do ssh and openssl: readpassphrase(3) and
    UI_OpenSSL catch the signal while they ask, whatever it did before. Our other work leaves it ignored.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ask(what: str) -> bytes:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        raise Error(CKR.GENERAL_ERROR, f"no terminal to ask for the {what}: give it in a file, see --help") from None
    sys.stdout.flush()
    try:
        with interruptible():
            return getpass.getpass(f"{what}: ").encode()
    except EOFError:
        raise click.Abort from None
    except UnicodeError:
        raise Error(CKR.PIN_INVALID, "a PIN is UTF-8 text") from None
