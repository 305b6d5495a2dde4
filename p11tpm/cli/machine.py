"""The store and the TPM that the commands work on, as the configuration names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import click

from p11tpm.attribute import ulong
from p11tpm.ck import CKA, CKF, CKO, CKR, CKU
from p11tpm.cli import prompt
from p11tpm.cli.output import printable, say
from p11tpm.config import Config
from p11tpm.error import Error
from p11tpm.pin import check_new
from p11tpm.pinfile import PinFile
from p11tpm.store import Store
from p11tpm.token import Token

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from p11tpm.object import Object

token_option = click.option(
    "--token", "token_label", metavar="LABEL", help="The token to work on; by default the one that programs are shown."
)


class Machine:
    """Configuration, store and tokens of this user on this machine; a context that frees the TPM at its end."""

    def __init__(self) -> None:
        self.config = Config.load()
        self.store = Store(self.config.store)
        self.tokens = Token.open_all(self.config, self.store)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for token in self.tokens:
            token.close()
        self.store.close()

    def add(self, label: str, so_pin: bytes | None, pin: bytes | None) -> Token:
        """Make a token; see `Token.create`."""
        token = Token.create(self.config, self.store, label, so_pin, pin)
        self.tokens.append(token)
        return token

    def check_new_label(self, label: str) -> None:
        """Refuse the label of a new token that does not fit CK_TOKEN_INFO's 32 bytes, or that another token has."""
        if not label.strip() or label != printable(label) or len(label.encode()) > 32:
            raise click.UsageError(f"A token's label is text of 1 to 32 bytes: {printable(label)!r} is not.")
        if any(token.label == label for token in self.tokens):
            raise Error(CKR.ARGUMENTS_BAD, f"there is already a token '{label}': choose another label")

    def pin_of_new(self, label: str) -> bytes | None:
        """Give the PIN that programs will read for a new token with this label; None if they read none."""
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

    def token(self, label: str | None) -> Token:
        """Find the token with this label; without one, the first that programs are shown."""
        if not self.tokens:
            raise Error(CKR.TOKEN_NOT_PRESENT, f"there is no token in {self.config.store}: make one with 'p11tpm init'")
        found = [token for token in self.tokens if (token.label == label if label else self.is_shown(token))]
        if found:
            return found[0]
        there = ", ".join(printable(token.label) for token in self.tokens)
        raise Error(
            CKR.TOKEN_NOT_PRESENT, f"there is no token '{printable(label or self.config.token or '')}', only: {there}"
        )

    def log_in(self, token: Token, pin_file: Path | None) -> None:
        """Log the user in; a token without PIN needs none.

        The PIN comes from `pin_file`, else from the file that the configuration names, else from the terminal.
        """
        flags = token.flags(token.row)
        if not flags & CKF.LOGIN_REQUIRED:
            return
        if flags & CKF.USER_PIN_FINAL_TRY:
            say("this is the last try before the PIN is locked")
        if pin_file or not self.config.pin_file or not self.is_shown(token):
            token.login(CKU.USER, prompt.existing(f"PIN of token '{printable(token.label)}'", pin_file))
        else:
            self._log_in_by_file(token)

    def _log_in_by_file(self, token: Token) -> None:
        source = PinFile.configured(self.config)
        try:
            token.login(CKU.USER, source.read())
        except Error as error:
            if error.rv != CKR.PIN_INCORRECT:
                raise
            raise Error(error.rv, f"{source.path}: {error.why}; write the one of token '{token.label}'") from None


def objects(token: Token, object_class: int, **more: bytes) -> list[Object]:
    """Read the objects of a class, with this ``label``, public key ``info`` or ``value`` if given, oldest first."""
    types = {"label": CKA.LABEL, "info": CKA.PUBLIC_KEY_INFO, "value": CKA.VALUE}
    template = {CKA.CLASS: ulong(object_class), **{types[name]: value for name, value in more.items()}}
    return [thing for id_ in token.find(template) if (thing := _read(token, id_))]


def _read(token: Token, id_: int) -> Object | None:
    """Read an object; None if another program deleted it since it was found."""
    try:
        return token.object(id_)
    except Error as error:
        if error.rv == CKR.OBJECT_HANDLE_INVALID:
            return None
        raise


def select(token: Token, object_class: int, wanted: str | None) -> Object:
    """Find the one object of a class that a person means: by label, by id in hexadecimal, or the only one there is."""
    noun = "certificate" if object_class == CKO.CERTIFICATE else "key"
    command = "cert" if object_class == CKO.CERTIFICATE else "key"
    every = objects(token, object_class)
    found = [thing for thing in every if wanted is None or _is_meant(thing, wanted)]
    if len(found) == 1:
        return found[0]
    where = f"token '{printable(token.label)}'"
    if found:
        raise Error(
            CKR.ARGUMENTS_BAD, f"{where} has {len(found)} such {noun}s: name one by its id, see 'p11tpm {command} list'"
        )
    what = f"no {noun} '{printable(wanted)}'" if wanted else f"no {noun}"
    raise Error(CKR.ARGUMENTS_BAD, f"{where} has {what}: see 'p11tpm {command} list'")


def _is_meant(thing: Object, wanted: str) -> bool:
    return thing.get(CKA.LABEL) == wanted.encode(errors="surrogateescape") or thing.get(CKA.ID).hex() == wanted.lower()
