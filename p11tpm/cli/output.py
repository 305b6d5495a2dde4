"""What the commands say: results on stdout, everything else on stderr; JSON for programs."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import click
from rich.console import Console

from p11tpm.ck import CKR
from p11tpm.cli.prompt import interruptible
from p11tpm.error import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.status import Status

Result = TypeVar("Result")

_WIDEST = 80  # characters of a text that others are aligned with: a longer one stands out alone

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def say(text: str) -> None:
    """Print one line for the person on stderr."""
    click.echo(f"p11tpm: {printable(text)}", err=True)


def printable(text: str) -> str:
    """Replace characters that cannot be printed: a label may come from any program, and must stay on its line."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def as_label(value: bytes) -> str:
    """Decode a label of the standard, UTF-8; bytes that are not are written in hexadecimal, each behind a backslash."""
    return value.decode(errors="backslashreplace")


def as_text(value: bytes) -> str:
    """Decode a label of the standard into something that can be printed."""
    return printable(as_label(value))


def print_json(value: object) -> None:
    """Print a result for programs."""
    click.echo(json.dumps(value, indent=2))


def print_listing(rows: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
    """Print each thing's columns, aligned, on a line; below it, indented, lines that can be copied as they are."""
    columns_of_all = zip(*(columns for columns, _ in rows), strict=True)
    widths = [max((len(text) for text in column if len(text) <= _WIDEST), default=0) for column in columns_of_all]
    for columns, below in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(columns, widths, strict=True)).rstrip())
        for line in below:
            click.echo(f"    {line}")


def example(*commands: str) -> str:
    """Return the end of a command's help: what to type. It begins with click's mark for lines that stay as they are."""
    return "\n".join(["\b", "Example:", *(f"  {command}" for command in commands)])


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed, unless `yes`; a program that cannot be asked has to say --yes."""
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to confirm it: add --yes.")
    with interruptible():
        if not click.confirm(question, err=True):
            raise Error(CKR.FUNCTION_CANCELED, "it was not confirmed; nothing was changed")


def wait(text: str, work: Callable[[], Result]) -> Result:
    """Run work that may take the TPM minutes; a terminal sees what is going on, and for how long.

    The work has a thread of its own, since a TPM command cannot be interrupted: Ctrl-C ends the process at once. Only
    finished work reaches the store, in one transaction.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    console = Console(stderr=True)
    start = time.monotonic()
    try:
        with console.status(text) as status:
            thread.start()
            while thread.is_alive():
                thread.join(0.2)
                _show_elapsed(status, text, time.monotonic() - start)
    except KeyboardInterrupt:
        say("interrupted; nothing that existed before was changed")
        os._exit(1)
    if errors:
        raise errors[0]
    return results[0]


def _show_elapsed(status: Status, text: str, seconds: float) -> None:
    if seconds >= 1:
        status.update(f"{text} ({seconds:.0f} s)")
