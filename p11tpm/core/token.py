"""A token: one storage root key's worth of PINs and objects in the store, with the login of this process."""

from __future__ import annotations

from p11tpm.ck import CKF, CKR, CKU
from p11tpm.core.objects import Objects
from p11tpm.core.token_state import TokenState
from p11tpm.error import Error, GoneError
from p11tpm.host import log
from p11tpm.host.ending import Ending
from p11tpm.host.imports import Late
from p11tpm.mechanism import Mechanism, offered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from p11tpm.core import binding, pin_file, software, token_tpm
    from p11tpm.core import pin as pins
    from p11tpm.core.binding import Wish
    from p11tpm.core.object import Object
    from p11tpm.core.software import InSoftware
    from p11tpm.core.token_tpm import TokenTpm
    from p11tpm.host.config import Config
    from p11tpm.store import Store, TokenRow
else:
    binding = Late("p11tpm.core.binding")
    pins = Late("p11tpm.core.pin")
    pin_file = Late("p11tpm.core.pin_file")
    software = Late("p11tpm.core.software")
    token_tpm = Late("p11tpm.core.token_tpm")


class Token(TokenState):
    """One token: its row in the store, its objects, who is logged in, and its part of the TPM."""

    def __init__(self, config: Config, store: Store, row: TokenRow) -> None:
        super().__init__(config, store, row)
        self.objects = Objects(self)

    # -- the token itself

    @classmethod
    def open_all(cls, config: Config, store: Store) -> list[Self]:
        """Return every token of the store, shown as a slot or not."""
        return [cls(config, store, row) for row in store.tokens()]

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
        """Make a token: storage root key, SO and USER objects in the TPM, one row in the store.

        Without `pin` the token needs no login, and its keys are protected by the store's file mode alone, or by what
        the token is bound to: `wish`. Without `so_pin` nobody can reset a PIN. The store is changed last, in one
        transaction.
        """
        return cls._create(config, store, label, so_pin, pin, wish, no_pin=pin is None)

    @classmethod
    def initialize(cls, config: Config, store: Store, label: str, so_pin: bytes) -> Self:
        """Make a token as C_InitToken does: with an SO, whose turn it then is to set the user's PIN (clause 5.5.7)."""
        return cls._create(config, store, label, so_pin, None, None, no_pin=False)

    @classmethod
    def _create(
        cls,
        config: Config,
        store: Store,
        label: str,
        so_pin: bytes | None,
        pin: bytes | None,
        wish: Wish | None,
        *,
        no_pin: bool,
    ) -> Self:
        for new in (so_pin, pin):
            if new is not None:
                pins.check_new(new, config.pin_min)
        ties = binding.Binding(config, store, token_tpm.connect(config, store))
        try:
            row = token_tpm.new_row(ties, label, so_pin, pin, wish, no_pin=no_pin)
        finally:
            ties.tpm.release()
        row.id = store.add_token(row)
        return cls(config, store, row)

    def reinitialize(self, label: str, so_pin: bytes) -> None:
        """Destroy all objects and the user's PIN, if the SO's PIN is right; it stays (C_InitToken, clause 5.5.7).

        The new token is not bound to a state of the machine.
        """
        with self.lock:
            try:
                self.tpm.open(CKU.SO, so_pin)
                self._evict_all()
                ties = binding.Binding(self._config, self.store, self.tpm.tpm)
                new = token_tpm.new_row(ties, label, so_pin, None, None, no_pin=False)
                new.id = self.id
                if self.row.policy:
                    log.error(
                        f"token '{self.label}' was initialised again, and is no longer bound to the machine's state"
                    )
                self.store.replace_token(new, self.tpm.row.uuid)
            finally:
                self.close(Ending())

    def delete(self) -> None:
        """Remove the token and all of its objects from the store, and its resident keys from the TPM.

        CKR_ACTION_PROHIBITED if the TPM's owner has to agree to the latter; GoneError if another token is in the place
        of the one that was seen last.
        """
        was = self.seen.uuid
        there = self.store.token(self.id)
        if there is not None and there.uuid != was:
            raise GoneError(deleted=False)
        self._evict_all()
        self.close(Ending())
        self.store.delete_token(self.id, was)

    def _evict_all(self) -> None:
        records = self.store.residents(self.id)
        if records:
            self.tpm.evict(records)

    @property
    def label(self) -> str:
        """The label, without padding."""
        return self.row.label

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the TPM can do, as it said when the token was made: words such as ``rsa2048`` and ``p256``."""
        return tuple(self.seen.capabilities.split())

    @property
    def mechanisms(self) -> dict[int, tuple[Mechanism, tuple[int, ...]]]:
        """The mechanisms by type, with their key sizes; nothing is asked for them."""
        return offered(self.seen.capabilities, self._config.mechanisms)

    def mechanism(self, type_: int, does: int) -> Mechanism:
        """Find a mechanism that does what is asked (a CKF_ flag); CKR_MECHANISM_INVALID if there is none."""
        row, _ = self.mechanisms.get(type_, (None, ()))
        if row is None or not row.does & does:
            raise Error(CKR.MECHANISM_INVALID, f"mechanism {type_:#x} is not there for this function")
        return row

    def flags(self, row: TokenRow) -> int:
        """Return CK_TOKEN_INFO.flags of the token in this state (clause 3.2); asks the TPM only after a wrong PIN."""
        flags = CKF.RNG | CKF.TOKEN_INITIALIZED
        flags |= 0 if self.writable else CKF.WRITE_PROTECTED
        if not row.no_pin:
            flags |= CKF.LOGIN_REQUIRED | (CKF.PROTECTED_AUTHENTICATION_PATH if self._config.pin_file else 0)
        flags |= CKF.USER_PIN_INITIALIZED if row.user_pin_set else 0
        if not self.store.any_failure(row):
            return flags
        return flags | self.tpm.tries[CKU.SO].flags() | self.tpm.tries[CKU.USER].flags()

    # -- logins and PINs (clause 5.5.7 to 5.5.9 and 5.6.8, 5.6.9)

    def login(self, user: int, pin: bytes) -> None:
        """Log in for the whole process.

        Raises CKR_USER_ALREADY_LOGGED_IN, CKR_USER_ANOTHER_ALREADY_LOGGED_IN, CKR_USER_PIN_NOT_INITIALIZED,
        CKR_PIN_INCORRECT, CKR_PIN_LOCKED.
        """
        with self.lock:
            self._require_nobody(user)
            self.tpm.open(user, pin)
            self.logged_in = user

    def _require_nobody(self, user: int) -> None:
        if user == CKU.USER and self.seen.no_pin:  # programs that always log in go on after this error
            raise Error(CKR.USER_ALREADY_LOGGED_IN, "the token has no PIN: there is no need to log in")
        if self.logged_in == user:
            raise Error(CKR.USER_ALREADY_LOGGED_IN, "already logged in")
        if self.logged_in is not None:
            raise Error(CKR.USER_ANOTHER_ALREADY_LOGGED_IN, "the other role is logged in")

    def pin_of_file(self, user: int) -> bytes:
        """Read the PIN for a login without one from the file that the configuration names (clause 5.6.8).

        CKR_ARGUMENTS_BAD if there is none for this role, CKR_FUNCTION_FAILED if the file cannot be used.
        """
        if user == CKU.USER:
            self._require_nobody(user)
        if user == CKU.SO or self.seen.no_pin or not self._config.pin_file:
            raise Error(CKR.ARGUMENTS_BAD, "the program gave no PIN, and there is no 'pin-file' for this role")
        return pin_file.PinFile.configured(self._config).read()

    def check_pin(self, pin: bytes) -> None:
        """Check the user's PIN once more, with the errors of `login` (CKU_CONTEXT_SPECIFIC)."""
        with self.lock:
            self.tpm.check_user(pin)

    def logout(self, ending: Ending) -> bool:
        """End the login of the process: private session objects go, and so do the keys in the TPM (clause 5.6.9).

        Return whether somebody was logged in.
        """
        with ending.holding(self.lock, self.give_up):
            if self.logged_in is None:
                return False
            self.end_login(ending)
            return True

    def end_login(self, ending: Ending) -> None:
        """End the login, if there is one, and what only it may see; the caller has the lock."""
        self.logged_in = None
        self.objects.end_login()
        super().end_login(ending)

    def close(self, ending: Ending, *, for_ever: bool = False) -> None:
        """End login, session objects and the connection to the TPM; with `for_ever` it is not opened again."""
        with ending.holding(self.lock, self.give_up):
            self.logged_in = None
            self.objects.close()
            super().close(ending, for_ever=for_ever)

    def abandon(self) -> None:
        """Forget the login in a forked child; the connection is the parent's and is not used."""
        self.logged_in = None
        self.objects.abandon()
        super().abandon()

    def init_pin(self, pin: bytes) -> None:
        """Set the user's PIN, by the SO (clause 5.5.8)."""
        with self.lock:
            if self.logged_in != CKU.SO:
                raise Error(CKR.USER_NOT_LOGGED_IN, "the SO is not logged in")
            self.tpm.init_pin(pin)

    def set_pin(self, old: bytes, new: bytes) -> None:
        """Change the PIN of whoever is logged in, the user's if nobody is (clause 5.5.9)."""
        with self.lock:
            self.tpm.set_pin(CKU.SO if self.logged_in == CKU.SO else CKU.USER, old, new)

    def user_of(self, key: Object) -> TokenTpm | InSoftware:
        """Return what does the private operations of an RSA or EC key: the TPM, or software for one that may leave."""
        if key.in_tpm or key.record.secret is None:
            return self.tpm
        return software.InSoftware(self.tpm.secret_of)

    # -- what the token is bound to

    def bind(self, pin: bytes | None, wish: Wish) -> None:
        """Bind the token, with all of its keys, to states of the machine, or to none; `pin` is None for one without.

        StateError if it does not open now, or would not open in the present state: nothing is changed then.
        """
        with self.lock:
            self.tpm.bind(pin, wish)

    def reseal(self, pin: bytes | None, others: Sequence[dict[int, bytes]] = ()) -> None:
        """Bind the token to the present values of the same PCRs, and to `others`: see `binding.Wish`."""
        with self.lock:
            self.tpm.reseal(pin, others)

    def why_shut(self) -> str:
        """Return why the token does not open in the present state of the machine; empty if it does, or is not bound."""
        with self.lock:
            return self.tpm.why_shut()

    def recover(self, code: str, pin: bytes | None, *, bound: bool = True) -> None:
        """Set a new PIN by the recovery code, in any state of the machine.

        The token is then bound to the present values of the same PCRs, or not `bound` any more. CKR_ARGUMENTS_BAD for a
        wrong code.
        """
        with self.lock:
            self.tpm.recover(code, pin, bound=bound)

    # -- keys that stay in the TPM

    def keep_resident(self, id_: int, owner_auth: bytes = b"") -> int:
        """Leave a key in the TPM and give its persistent handle.

        CKR_DEVICE_MEMORY if the TPM is full, CKR_ACTION_PROHIBITED if `owner_auth` is not what the owner has set.
        """
        with self.lock:
            self.check_login()
            self.require_writer(self.objects.get(id_).attributes)
            return self.tpm.residents.add(self.objects.get(id_).record, owner_auth)

    def end_residence(self, id_: int, owner_auth: bytes = b"") -> bool:
        """Remove a key from the TPM again; False if it was not there. CKR_ACTION_PROHIBITED as in `keep_resident`."""
        with self.lock:
            self.check_login()
            return self.tpm.residents.remove(self.objects.get(id_).record, owner_auth)
