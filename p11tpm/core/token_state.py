"""A token as this process has it: its row in the store, who is logged in, and its part of the TPM."""

from __future__ import annotations

import _thread

from p11tpm.attribute import TRUE, Template, to_ulong
from p11tpm.ck import CKA, CKO, CKR, CKU
from p11tpm.core.identity import Identity
from p11tpm.error import Error, GoneError
from p11tpm.host.ending import Ending
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core import token_tpm
    from p11tpm.core.token_tpm import TokenTpm
    from p11tpm.host.config import Config
    from p11tpm.store import Store, TokenRow
else:
    token_tpm = Late("p11tpm.core.token_tpm")


class TokenState(Identity):
    """The state of one token, which its objects and its logins share."""

    def __init__(self, config: Config, store: Store, row: TokenRow) -> None:
        super().__init__(store, row)
        self._config = config
        self.lock = _Lock(self)
        self.logged_in: int | None = None
        self._tpm: TokenTpm | None = None
        self._ended = False

    @property
    def tpm(self) -> TokenTpm:
        """What the TPM does for the token. Its users do not wait for a thread that makes a key."""
        if self._tpm is not None:
            return self._tpm
        with self.lock:
            if self._tpm is None:
                if self._ended:
                    raise Error(CKR.CRYPTOKI_NOT_INITIALIZED, "another thread has called C_Finalize")
                self._tpm = token_tpm.TokenTpm(self._config, self)
            return self._tpm

    @property
    def writable(self) -> bool:
        """Whether the store can be written to."""
        return self.store.writable

    @property
    def sees_private(self) -> bool:
        """Whether private objects are visible: the user is logged in, or the token has no PIN."""
        return self.logged_in == CKU.USER or self.seen.no_pin

    def require_writer(self, attributes: Template) -> None:
        """Refuse to write private objects and keys of the token without a login, and to a store that is read-only."""
        is_key = to_ulong(attributes[CKA.CLASS]) in {CKO.PRIVATE_KEY, CKO.SECRET_KEY}
        needs_login = attributes[CKA.PRIVATE] == TRUE or (is_key and attributes[CKA.TOKEN] == TRUE)
        if needs_login and not self.sees_private:
            raise Error(CKR.USER_NOT_LOGGED_IN, "private objects need a login")
        if attributes[CKA.TOKEN] == TRUE and not self.writable:
            raise Error(CKR.TOKEN_WRITE_PROTECTED, "the store cannot be written to")

    def check_login(self) -> None:
        """Raise GoneError if somebody is logged in to a token that is no longer there; ends the login.

        Without the lock, which a thread that makes a key has for long, if all is well.
        """
        if self.whose is None:
            return
        try:
            self.row_of_login()
        except GoneError:
            with self.lock:
                self.row_of_login()

    def end_login(self, ending: Ending) -> None:
        """End the login, if there is one; the caller has the lock."""
        self.logged_in = None
        if self._tpm is not None:
            self._tpm.shut(ending)

    def lose_login(self) -> None:
        """End the login to a token that is gone, and see what is in its place; the caller has the lock."""
        self.end_login(Ending())
        self.seen = self.store.token(self.id) or self.seen

    def close(self, ending: Ending, *, for_ever: bool = False) -> None:
        """End login and the connection to the TPM; with `for_ever` it is not opened again. The caller has the lock."""
        self._ended = for_ever
        self.logged_in = None
        if self._tpm is not None:
            self._tpm.shut(ending, for_ever=for_ever)

    def give_up(self) -> None:
        """Cancel the wait of the thread that uses the TPM."""
        if self._tpm is not None:
            self._tpm.tpm.connection.give_up()

    def abandon(self) -> None:
        """Forget the login in a forked child; the connection is the parent's and is not used."""
        self.logged_in = None
        if self._tpm is not None:
            self._tpm.abandon()

    def unload(self, uuid: bytes) -> None:
        """Unload a key that was destroyed, if the TPM has it."""
        if self._tpm is not None:
            self._tpm.tpm.forget(uuid)


class _Lock:
    """A token's lock. A login to a token that turns out to be gone ends before another thread gets the lock."""

    __slots__ = ("_lock", "_token")

    def __init__(self, token: TokenState) -> None:
        self._lock = _thread.RLock()
        self._token = token

    def acquire(self, timeout: float = -1) -> bool:
        """Acquire it; False if that takes longer than `timeout` seconds."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Release it."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        try:
            if isinstance(error, GoneError):
                self._token.lose_login()
        finally:
            self.release()
