"""Options of ``p11tpm key generate`` for keys with an end, or that work in a signed state of the machine only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from p11tpm.ck import CKA
from p11tpm.cli.binding import OPTIONS, signed_by
from p11tpm.cli.output import printable
from p11tpm.core.binding import described
from p11tpm.tpm.state import Signed, States

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from p11tpm.attribute import Template
    from p11tpm.core.object import Object
    from p11tpm.core.token import Token

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Condition:
    """What a new key's own policy is to ask for: this boot, an end after some seconds, a key that signs PCRs."""

    __slots__ = ("seconds", "signed", "this_boot")

    def __init__(self, signed: Signed | None, seconds: int | None, *, this_boot: bool) -> None:
        self.signed = signed
        self.seconds = seconds
        self.this_boot = this_boot

    def attributes(self, token: Token) -> Template:
        """Return the policy, as the TPM counts boots and time now, and the day of the end."""
        reset = clock = None
        end: Template = {}
        if self.this_boot or self.seconds is not None:
            now = token.tpm.time()
            reset = now.reset
            if self.seconds is not None:
                clock = now.clock + 1000 * self.seconds
                last = datetime.now(UTC) + timedelta(seconds=self.seconds)
                end = {CKA.END_DATE: last.strftime("%Y%m%d").encode()}
        return {CKA.P11TPM_POLICY: str(States(self.signed, reset=reset, clock=clock)).encode(), **end}


def _seconds(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """Read a time such as 8h."""
    if value is None:
        return None
    number, unit = value[:-1], value[-1:]
    if not (number.isascii() and number.isdigit() and 0 < len(number) < 6 and int(number) and unit in _UNITS):
        raise click.BadParameter(f"{printable(value)!r}: write a number and s, m, h or d, such as 8h.")
    return int(number) * _UNITS[unit]


_CONDITIONS = (
    click.option("--this-boot", is_flag=True, help="The key works until the machine starts again."),
    click.option(
        "--valid-for",
        "seconds",
        metavar="TIME",
        callback=_seconds,
        help="The key works for a time such as 8h, of this boot: s, m, h or d. The TPM's clock counts.",
    ),
    *OPTIONS[1:4],  # those of signed PCRs
)


def condition_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what a key's own policy asks for, as the command's parameter `condition`."""

    @wraps(command)
    def with_condition(
        *args: Any,
        this_boot: bool,
        seconds: int | None,
        signed_pcrs: tuple[int, ...] | None,
        key: Path | None,
        ref: str,
        **kwargs: Any,
    ) -> Any:
        signed = signed_by(signed_pcrs, key, ref)
        wanted = Condition(signed, seconds, this_boot=this_boot) if signed or seconds or this_boot else None
        return command(*args, condition=wanted, **kwargs)

    for option in reversed(_CONDITIONS):
        with_condition = option(with_condition)
    return with_condition


def limits_of(private: Object | None) -> str:
    """Return what a key's own policy asks for; empty for a key without."""
    text = private and private.attributes.get(CKA.P11TPM_POLICY)
    if not (private and text):
        return ""
    end = private.attributes.get(CKA.END_DATE, b"").decode()
    until = f" until {end[:4]}-{end[4:6]}-{end[6:]} at the latest" if end else ""
    return f"works for {described(States.parse(text.decode()))}{until}"
