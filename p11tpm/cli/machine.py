"""The store and the TPM that the commands work on, as the configuration names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import click

from p11tpm.attribute import ulong
from p11tpm.ck import CKA, CKF, CKO, CKR, CKU
from p11tpm.cli import prompt
from p11tpm.cli.logged import LoggedToken
from p11tpm.cli.output import as_text, printable, say
from p11tpm.core.object import Object
from p11tpm.core.pin import check_new
from p11tpm.core.pin_file import PinFile
from p11tpm.error import Error
from p11tpm.host import log
from p11tpm.host.config import Config
from p11tpm.host.ending import Ending
from p11tpm.store import Store
from p11tpm.tpm import Tpm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from p11tpm.core.binding import Wish
    from p11tpm.core.token import Token


class HasName(Protocol):
    """What a person can name: by its label or its id."""

    label: bytes
    id: bytes


Named = TypeVar("Named", bound=HasName)
token_option = click.option(
    "--token", "token_label", metavar="LABEL", help="The token to work on; by default the one that programs are shown."
)


class Machine:
    """Configuration, store and tokens of this user on this machine; a context that frees the TPM at its end."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config.load()
        log.configure(self.config)
        self.store = Store(self.config.store)
        self.tokens = LoggedToken.open_all(self.config, self.store)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for token in self.tokens:
            token.close(Ending())
        self.store.close()

    def add(self, label: str, so_pin: bytes | None, pin: bytes | None, wish: Wish | None = None) -> LoggedToken:
        """Make a token; see `Token.create`."""
        token = LoggedToken.create(self.config, self.store, label, so_pin, pin, wish)
        self.tokens.append(token)
        return token

    def check_new_label(self, label: str) -> None:
        """Refuse the label of a new token that does not fit CK_TOKEN_INFO's 32 bytes, or that another token has."""
        if not label.strip() or label != printable(label) or len(label.encode()) > 32:
            raise click.UsageError(f"A token's label is text of 1 to 32 bytes: {printable(label)!r} is not.")
        if any(token.label == label for token in self.tokens):
            raise Error(CKR.ARGUMENTS_BAD, f"there is already a token '{label}': choose another label")

    def check_tpm(self, wish: Wish | None = None) -> None:
        """Refuse to ask for a PIN where no TPM answers, or where a token cannot be bound as is wished."""
        tpm = Tpm(self.config.tcti)
        try:
            tpm.lockout()
            if wish:
                wish.states(tpm)
        finally:
            tpm.release()

    def pin_of_new(self, label: str) -> bytes | None:
        """Return the PIN that programs will read for a new token with this label; None if they read none."""
        wanted = self.config.token
        if not self.config.pin_file or (self.tokens if wanted is None else wanted != label):
            return None
        pin = PinFile.configured(self.config).read()
        check_new(pin, self.config.pin_min)
        return pin

    def is_shown(self, token: Token) -> bool:
        """Whether programs are shown this token: the first one, or those that the configuration names."""
        wanted = self.config.token
        return token is self.tokens[0] if wanted is None else wanted in {"*", token.label}

    def token(self, label: str | None) -> LoggedToken:
        """Find the token with this label; without one, the first that programs are shown."""
        if not self.tokens:
            raise Error(CKR.TOKEN_NOT_PRESENT, f"there is no token in {self.config.store}: make one with 'p11tpm init'")
        found = self._named(label) if label else [token for token in self.tokens if self.is_shown(token)]
        if found:
            return found[0]
        there = ", ".join(printable(token.label) for token in self.tokens)
        raise Error(
            CKR.TOKEN_NOT_PRESENT, f"there is no token '{printable(label or self.config.token or '')}', only: {there}"
        )

    def _named(self, label: str) -> list[LoggedToken]:
        """Return the tokens with this label, or else the only one whose label is printed so."""
        shown = [token for token in self.tokens if printable(token.label) == label]
        return [token for token in self.tokens if token.label == label] or (shown if len(shown) == 1 else [])

    def log_in(self, token: Token, pin_file: Path | None) -> None:
        """Log the user in; a token without PIN needs none."""
        self.with_pin(token, pin_file, lambda pin: None if pin is None else token.login(CKU.USER, pin))

    def with_pin(self, token: Token, pin_file: Path | None, work: Callable[[bytes | None], None]) -> None:
        """Call `work` with the user's PIN; None for a token without.

        The PIN comes from `pin_file`, else from the file that the configuration names, else from the terminal.
        """
        flags = token.flags(token.row)
        if not flags & CKF.LOGIN_REQUIRED:
            work(None)
            return
        if flags & CKF.USER_PIN_FINAL_TRY:
            say("this is the last try before the PIN is locked")
        if pin_file or not self.reads_pin_of(token):
            work(prompt.existing(f"PIN of token '{printable(token.label)}'", pin_file))
        else:
            self._with_pin_of_file(token, work)

    def reads_pin_of(self, token: Token) -> bool:
        """Return whether programs read the PIN of this token from a file."""
        return bool(self.config.pin_file) and self.is_shown(token)

    def _with_pin_of_file(self, token: Token, work: Callable[[bytes | None], None]) -> None:
        source = PinFile.configured(self.config)
        try:
            work(source.read())
        except Error as error:
            if error.rv != CKR.PIN_INCORRECT:
                raise
            raise Error(error.rv, f"{source.path}: {error.why}; write the one of token '{token.label}'") from None


def objects(token: Token, object_class: int, value: bytes | None = None) -> list[Object]:
    """Read the objects of a class, with this ``value`` if given, oldest first."""
    template = {CKA.CLASS: ulong(object_class), **({} if value is None else {CKA.VALUE: value})}
    return [thing for id_ in token.objects.find(template) if (thing := _read(token, id_))]


def _read(token: Token, id_: int) -> Object | None:
    """Read an object; None if another program deleted it since it was found."""
    try:
        return token.objects.get(id_)
    except Error as error:
        if error.rv == CKR.OBJECT_HANDLE_INVALID:
            return None
        raise


def private_keys(machine: Machine, token: Token) -> list[Object]:
    """Read a token's private keys, oldest first: what anybody may know of them, with a login or without."""
    found = (machine.store.record(id_) for id_ in machine.store.find(token.id, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)}, {}))
    return [Object(record) for record in found if record is not None]


def has_key(machine: Machine, token: Token, label: str) -> bool:
    """Return whether a public or private key has a label."""
    classes = (CKO.PUBLIC_KEY, CKO.PRIVATE_KEY)
    named = {CKA.LABEL: label.encode()}
    return any(machine.store.find(token.id, {CKA.CLASS: ulong(one), **named}, {}) for one in classes)


def select(token: Token, noun: str, every: Sequence[Named], wanted: str | None) -> Named:
    """Find the one that a person means: by id in hexadecimal, by label, or the only one there is.

    `noun` is "key" or "cert", as in the commands.
    """
    found = list(every) if wanted is None else _meant(every, wanted)
    if len(found) == 1:
        return found[0]
    where, word = f"token '{printable(token.label)}'", {"cert": "certificate"}.get(noun, noun)
    if found:
        raise Error(
            CKR.ARGUMENTS_BAD, f"{where} has {len(found)} such {word}s: name one by its id, see 'p11tpm {noun} list'"
        )
    what = f"no {word} '{printable(wanted)}'" if wanted else f"no {word}"
    raise Error(CKR.ARGUMENTS_BAD, f"{where} has {what}: see 'p11tpm {noun} list'")


def _meant(every: Sequence[Named], wanted: str) -> list[Named]:
    """Find by id, then by label, then by a label as it is shown: an id is what is left to name one of two with."""
    ways: tuple[Callable[[Named], bool], ...] = (
        lambda one: one.id != b"" and one.id.hex() == wanted.lower(),
        lambda one: one.label == wanted.encode(errors="surrogateescape"),
        lambda one: as_text(one.label) == wanted,
    )
    return next((found for way in ways if (found := [one for one in every if way(one)])), [])
