"""``p11tpm token bind`` and its like: tokens that open only while the machine is in a state that is known."""

from __future__ import annotations

from functools import wraps
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from p11tpm.algorithm import HASHES
from p11tpm.ck import CKR
from p11tpm.cli import prompt
from p11tpm.cli.machine import Machine
from p11tpm.cli.output import confirm, example, printable, say, wait
from p11tpm.core.binding import Wish, described, new_code
from p11tpm.core.pcr_signature import PLACES, find_in, fingerprint
from p11tpm.core.pin_file import PinFile
from p11tpm.error import Error
from p11tpm.tpm import state, template
from p11tpm.tpm.state import Signed, States

if TYPE_CHECKING:
    from collections.abc import Callable

    from p11tpm.core.token import Token
    from p11tpm.store import TokenRow

_KEY_NAME = "tpm2-pcr-public-key.pem"
_LONGEST = 1 << 16  # characters of a list of values
_label_argument = click.argument("label", required=False)


def _pcrs(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read numbers of PCRs, written as 7+14."""
    try:
        return None if value is None else state.read(value.replace(",", "+"))
    except ValueError:
        raise click.BadParameter(f"{printable(value or '')!r}: write numbers from 0 to 23, such as 7+14.") from None


OPTIONS = (
    click.option(
        "--pcr",
        "pcrs",
        metavar="PCRS",
        callback=_pcrs,
        help="Bind to the present values of these PCRs, such as 7 or 7+14.",
    ),
    click.option(
        "--signed-pcr",
        "signed_pcrs",
        metavar="PCRS",
        callback=_pcrs,
        help="Bind to any values of these PCRs that a key signed.",
    ),
    click.option(
        "--pcr-key",
        "key",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"The public key that signs, in PEM; by default {_KEY_NAME} where systemd has it.",
    ),
    click.option("--pcr-ref", "ref", default="", help="The text that is signed with the values, as systemd's 'ref'."),
    click.option("--no-recovery", is_flag=True, help="Make no recovery code: in another state the keys are lost."),
)


def binding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what a token is bound to, as the command's parameter `wish`; None for nothing."""

    @wraps(command)
    def with_wish(
        *args: Any,
        pcrs: tuple[int, ...] | None,
        signed_pcrs: tuple[int, ...] | None,
        key: Path | None,
        ref: str,
        no_recovery: bool,
        **kwargs: Any,
    ) -> Any:
        if set(pcrs or ()) & set(signed_pcrs or ()):
            raise click.UsageError("--pcr and --signed-pcr name the same PCR: choose one of them for it.")
        signed = signed_by(signed_pcrs, key, ref)
        if not (pcrs or signed):
            if no_recovery:
                raise click.UsageError("--no-recovery goes with --pcr or --signed-pcr.")
            return command(*args, wish=None, **kwargs)
        return command(*args, wish=Wish(pcrs or (), signed, code=None if no_recovery else new_code()), **kwargs)

    for option in reversed(OPTIONS):
        with_wish = option(with_wish)
    return with_wish


def signed_by(pcrs: tuple[int, ...] | None, key: Path | None, ref: str) -> Signed | None:
    """Return the signed PCRs that these options ask for; None for none, wrong usage for a key without PCRs."""
    if pcrs:
        return Signed(_authority(key), pcrs, ref)
    if key or ref:
        raise click.UsageError("--pcr-key and --pcr-ref go with --signed-pcr.")
    return None


def _authority(path: Path | None) -> bytes:
    """Read the public key that signs values of PCRs; CKR_ARGUMENTS_BAD for what is none."""
    named, path = path is not None, path or Path(find_in(PLACES, _KEY_NAME))
    if not (named or path.exists()):
        why = f"there is no {path}: this kernel is not from a signed image; name the key that signs by --pcr-key"
        raise Error(CKR.ARGUMENTS_BAD, why)
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey):
        raise Error(CKR.ARGUMENTS_BAD, f"{path}: not an RSA public key in PEM, which is what systemd signs with")
    numbers = key.public_numbers()
    return template.authority(numbers.n, numbers.e)


def show_code(wish: Wish | None) -> None:
    """Print the recovery code of a token that was bound, this once."""
    if wish and wish.code:
        say("this recovery code gives the token back in any other state. Keep it elsewhere: it is not shown again")
        click.echo(wish.code)


def described_json(row: TokenRow) -> dict[str, object] | None:
    """Return what a token is bound to, for programs; None for nothing."""
    if not row.policy:
        return None
    states = States.parse(row.policy)
    signed = states.signed
    key = signed and {"pcrs": list(signed.pcrs), "key": fingerprint(signed.public).hex(), "ref": signed.ref}
    every = [{str(pcr): value.hex() for pcr, value in values.items()} for values in states.alternatives]
    return {"states": [{"pcrs": values, "signed": key} for values in every], "recovery": bool(row.recovery_private)}


def bound_to(token: Token) -> str:
    """Return what a token is bound to, and whether that is so now; empty for nothing."""
    if not token.row.policy:
        return ""
    text = f"bound to {described(States.parse(token.row.policy))}"
    try:
        return f"{text}: shut now" if token.why_shut() else text
    except Error:  # no TPM answers, of which other commands speak
        return text
    finally:
        token.tpm.release()


# -- the commands


@click.command(epilog=example("p11tpm token bind --pcr 7", "p11tpm token bind web --pcr 7 --signed-pcr 11"))
@_label_argument
@binding_options
@prompt.pin_file_option
def bind(label: str | None, wish: Wish | None, pin_file: Path | None) -> None:
    """Bind a token, and all of its keys, to the state of the machine.

    The token then opens only while the PCRs have their present values (--pcr), or values that a key has signed
    (--signed-pcr), as the kernel's image brings them. Prints a recovery code: keep it in another place.
    """
    if wish is None:
        raise click.UsageError("Say what to bind to: --pcr, --signed-pcr, or both.")
    with Machine() as machine:
        token = machine.token(label)
        machine.check_tpm(wish)
        machine.with_pin(token, pin_file, lambda pin: wait("The TPM binds the token", lambda: token.bind(pin, wish)))
        show_code(wish)


@click.command(epilog=example("p11tpm token unbind web"))
@_label_argument
@prompt.pin_file_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def unbind(label: str | None, pin_file: Path | None, *, yes: bool) -> None:
    """End a binding: the token opens in any state of the machine again, and its recovery code opens it no more."""
    with Machine() as machine:
        token = machine.token(label)
        Wish.same(token.row)
        confirm(f"Let token '{printable(token.label)}' open in any state of the machine?", yes=yes)
        machine.with_pin(token, pin_file, lambda pin: token.bind(pin, Wish()))


@click.command(
    epilog=example(
        "p11tpm token reseal", "systemd-measure calculate --linux=vmlinuz | p11tpm token reseal --next - --pin-file PIN"
    )
)
@_label_argument
@click.option(
    "--next",
    "next_",
    type=click.File(),
    help="A file of values that shall be good, too ('-' is stdin), in lines such as 11:sha256=HEX.",
)
@prompt.pin_file_option
def reseal(label: str | None, next_: Any, pin_file: Path | None) -> None:
    """Accept the present values of the PCRs that a token is bound to, and no others.

    With --next also those after an update, in the format of 'systemd-measure calculate'. A PCR that is not named keeps
    its present value; several lines of one PCR are alternatives. After the next boot, 'reseal' drops the old values.
    """
    others = _predicted(next_) if next_ else []
    with Machine() as machine:
        token = machine.token(label)
        machine.check_tpm(Wish.same(token.row, others))
        machine.with_pin(
            token, pin_file, lambda pin: wait("The TPM seals the token anew", lambda: token.reseal(pin, others))
        )


def _predicted(file: Any) -> list[dict[int, bytes]]:
    """Read values of PCRs and return every state that they allow; CKR_ARGUMENTS_BAD for a line that is none."""
    found: dict[int, list[bytes]] = {}
    try:
        lines = file.read(_LONGEST).splitlines()
    except UnicodeDecodeError:
        lines = ["?"]
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            try:
                bank, pcr, value = _value(line.strip())
            except ValueError:
                why = f"{printable(file.name)}:{number}: it has no value of a PCR: write lines such as 11:sha256=HEX"
                raise Error(CKR.ARGUMENTS_BAD, why) from None
            if bank == "sha256":
                found.setdefault(pcr, []).append(value)
    if not found:
        raise Error(CKR.ARGUMENTS_BAD, f"{printable(file.name)} has no value of a PCR in the bank of SHA-256")
    return [dict(zip(found, values, strict=True)) for values in product(*found.values())]


def _value(line: str) -> tuple[str, int, bytes]:
    """Read the bank, the number and the value of a PCR; ValueError."""
    pcr, _, rest = line.partition(":")
    bank, _, digits = rest.partition("=")
    value = bytes.fromhex(digits)
    if bank not in HASHES or len(value) != HASHES[bank].size:
        raise ValueError(line)
    return bank, state.number(pcr), value


@click.command(epilog=example("p11tpm token recover web", "p11tpm token recover web --unbind"))
@_label_argument
@prompt.recovery_file_option
@prompt.pin_file_option
@click.option("--unbind", "unbound", is_flag=True, help="Do not bind it again.")
def recover(label: str | None, recovery_file: Path | None, pin_file: Path | None, *, unbound: bool) -> None:
    """Get a bound token back by its recovery code, in any state of the machine.

    Asks for the code and for a new PIN, and binds the token to the present values of the same PCRs. The code
    stays good.
    """
    with Machine() as machine:
        token = machine.token(label)
        wish = Wish.same(token.row)
        if not token.row.recovery_private:
            raise Error(CKR.ARGUMENTS_BAD, f"token '{printable(token.label)}' has no recovery code")
        machine.check_tpm(None if unbound else wish)
        what = "recovery code"
        if recovery_file:
            code = prompt.read(recovery_file, what)
        else:
            code = prompt.existing(f"{what.capitalize()} of token '{printable(token.label)}'", None)
        pin = _new_pin(machine, token, pin_file)
        wait("The TPM opens the token", lambda: token.recover(code.decode(), pin, bound=not unbound))


def _new_pin(machine: Machine, token: Token, pin_file: Path | None) -> bytes | None:
    """Read the PIN that a token gets: the one that programs read for it, if they read one."""
    if token.row.no_pin:
        return None
    if not pin_file and machine.reads_pin_of(token):
        return PinFile.configured(machine.config).read()
    return prompt.new("PIN", pin_file, machine.config.pin_min)
