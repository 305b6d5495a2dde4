"""What the commands do with a token, logged as what programs do (the setting 'log-uses')."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from p11tpm.attribute import kind
from p11tpm.ck import CKR
from p11tpm.core.token import Token
from p11tpm.core.uses import KEYS, Use, this_program
from p11tpm.error import rv_of
from p11tpm.keys.generate import generate_pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from p11tpm.attribute import Template
    from p11tpm.core.binding import Wish
    from p11tpm.given import Given
    from p11tpm.host.config import Config
    from p11tpm.store import Store


@contextmanager
def logged(config: Config, use: Use) -> Iterator[None]:
    """Log a use of a token when it has ended, if the configuration says so."""
    answer = CKR.OK
    try:
        yield
    except BaseException as error:
        answer = rv_of(error)
        raise
    finally:
        if config.log_uses:
            use.write(this_program(), answer)


class LoggedToken(Token):
    """A token that logs its uses."""

    @classmethod
    def create(
        cls,
        config: Config,
        store: Store,
        label: str,
        so_pin: bytes | None,
        pin: bytes | None,
        wish: Wish | None = None,
    ) -> Self:
        """Make a token; see `Token.create`."""
        with logged(config, Use("init-token", label)):
            return super().create(config, store, label, so_pin, pin, wish)

    def login(self, user: int, pin: bytes) -> None:
        """Log in; see `Token.login`."""
        with logged(self._config, Use("login", self.seen.label, role=user)):
            super().login(user, pin)

    def generate_pair(self, given: Given, public: Template, private: Template) -> tuple[int, int]:
        """Make a key pair; see `keys.generate`."""
        use = Use("generate", self.seen.label, private, mechanism=given.type)
        with logged(self._config, use):
            public_id, private_id = generate_pair(self, given, public, private)
            use.keys = [self.objects.record(private_id).attributes]
        return public_id, private_id

    def destroy(self, *ids: int) -> None:
        """Delete objects; see `Objects.destroy`."""
        with ExitStack() as uses:
            for attributes in [self.objects.record(id_).attributes for id_ in ids]:
                if kind(attributes)[0] in KEYS:
                    uses.enter_context(logged(self._config, Use("destroy", self.seen.label, attributes)))
            self.objects.destroy(*ids)

    def bind(self, pin: bytes | None, wish: Wish) -> None:
        """Bind the token to states of the machine, or to none; see `Token.bind`."""
        with logged(self._config, Use("bind" if wish.pcrs or wish.signed else "unbind", self.seen.label)):
            super().bind(pin, wish)

    def reseal(self, pin: bytes | None, others: Sequence[dict[int, bytes]] = ()) -> None:
        """Bind the token to the present state; see `Token.reseal`."""
        with logged(self._config, Use("reseal", self.seen.label)):
            super().reseal(pin, others)

    def recover(self, code: str, pin: bytes | None, *, bound: bool = True) -> None:
        """Set a new PIN by the recovery code; see `Token.recover`."""
        with logged(self._config, Use("recover", self.seen.label)):
            super().recover(code, pin, bound=bound)

    def delete(self) -> None:
        """Remove the token; see `Token.delete`."""
        with logged(self._config, Use("delete-token", self.seen.label)):
            super().delete()
