"""TokenTpm: what the TPM does for one token. It checks PINs, keeps the secret, makes keys and uses them.

It is made when a token first needs its TPM, with all that this takes: a host that lists keys does not.
"""

from __future__ import annotations

import _thread
from posix import urandom
from time import time

from p11tpm.ck import CKA, CKR, CKU
from p11tpm.core.pin import Tries, Try, auth_value, check_new
from p11tpm.core.secret import SIZE, Secret
from p11tpm.error import POLICY_REFUSALS, Error, TpmError
from p11tpm.host import log
from p11tpm.host.imports import Late
from p11tpm.host.locked import Locked
from p11tpm.store import TokenRow
from p11tpm.tpm import Blob, DisplacedError, Key, NotResidentError, Srk, Tpm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Concatenate, ParamSpec, TypeVar

    from p11tpm.core import binding, key_material, residents
    from p11tpm.core.binding import Binding, Wish
    from p11tpm.core.identity import Identity
    from p11tpm.core.key_material import KeyMaterial
    from p11tpm.core.object import Object
    from p11tpm.core.residents import Residents
    from p11tpm.host.config import Config
    from p11tpm.host.ending import Ending
    from p11tpm.store import Record, Store
    from p11tpm.tpm import bound, importing, policy, provision, state, symmetric
    from p11tpm.tpm.bound import Time

    P = ParamSpec("P")
    T = TypeVar("T")
else:
    binding = Late("p11tpm.core.binding")
    bound = Late("p11tpm.tpm.bound")
    importing = Late("p11tpm.tpm.importing")
    key_material = Late("p11tpm.core.key_material")
    policy = Late("p11tpm.tpm.policy")
    provision = Late("p11tpm.tpm.provision")
    residents = Late("p11tpm.core.residents")
    state = Late("p11tpm.tpm.state")
    symmetric = Late("p11tpm.tpm.symmetric")

_SEQUENCES = 5  # times that a long message is begun, if other threads cost it what the TPM had of it


class TokenTpm:
    """A token's part of the TPM."""

    def __init__(self, config: Config, identity: Identity) -> None:
        self._config = config
        self._store = identity.store
        self._identity = identity
        self._lock = _thread.RLock()
        self._secret: Secret | None = None
        self._so_auth = Locked()
        self._kept_binding: Binding | None = None
        self.tpm = connect(config, self._store)
        tries = (Tries(config, self._store, self.tpm, identity.id, user) for user in (CKU.SO, CKU.USER))
        self.tries = dict(zip((CKU.SO, CKU.USER), tries, strict=True))

    @property
    def row(self) -> TokenRow:
        """The token as it is in the store now; GoneError if it is not the one that somebody is logged in to."""
        return self._identity.row_of_login()

    def _bound(self) -> Tpm:
        """Return the TPM, bound to the storage root key that was trusted when the token was made."""
        if self._identity.whose is None:
            self._bind(self.row)
        return self.tpm

    def _bind(self, row: TokenRow) -> None:
        self.tpm.bind(Srk(row.srk_handle, row.srk_public))

    def check(self) -> None:
        """Check that the TPM has the token's storage root key, or makes the same again: CKR_TOKEN_NOT_RECOGNIZED."""
        self._bind(self.row)
        try:
            self.tpm.check(made=True)
        finally:
            self.release()  # a TPM without resource manager has one connection only

    def release(self) -> None:
        """Close the connection to the TPM until it is needed again."""
        self.tpm.release()

    # -- PINs

    def open(self, user: int, pin: bytes) -> None:
        """Check a PIN, and keep what a login of this role needs; see `Try` for the errors."""
        with self._lock:
            row = self.row
            self._bind(row)
            if user == CKU.SO:
                with self.tries[user].attempt(row, pin, row.so_private) as auth:
                    self.tpm.unseal(Blob(row.so_public, row.so_private), auth)
                self._so_auth.set(auth)
            else:
                self._secret = self._open_user(row, pin)
            self._identity.whose = row.uuid

    def _open_user(self, row: TokenRow, pin: bytes) -> Secret:
        with self._try(row, pin) as auth:
            return Secret(self._unseal(row, auth))

    def _try(self, row: TokenRow, pin: bytes | None) -> Try:
        """Return a context in which the user's PIN is tried; None for a token without PIN."""
        if pin is None and row.no_pin:
            return self.tries[CKU.USER].guard(row)
        _require_user_pin(row)
        return self.tries[CKU.USER].attempt(row, pin or b"", row.user_private)

    def _unseal(self, row: TokenRow, auth: bytes) -> bytes:
        if row.policy:
            return self._binding.unseal(row, auth)
        return self.tpm.unseal(Blob(row.user_public, row.user_private), auth)

    @property
    def _binding(self) -> Binding:
        if self._kept_binding is None:
            self._kept_binding = binding.Binding(self._config, self._store, self.tpm)
        return self._kept_binding

    def check_user(self, pin: bytes) -> None:
        """Check the user's PIN and nothing else; see `Try` for the errors."""
        with self._lock:
            row = self.row
            self._bind(row)
            self._open_user(row, pin).wipe()

    def shut(self, ending: Ending, *, for_ever: bool = False) -> None:
        """Wipe what a login left, and let go of the TPM; with `for_ever` it is not opened again."""
        with ending.holding(self._lock, self.tpm.connection.give_up):
            self._wipe()
            if not self.tpm.end(ending, for_ever=for_ever):
                log.error(
                    "the TPM did not answer in time: the connection was dropped, and what was loaded is left in it"
                )

    def abandon(self) -> None:
        """Wipe what a login left in a forked child; the connection is the parent's and is not used."""
        self._wipe()
        self.tpm.abandon()

    def _wipe(self) -> None:
        if self._secret is not None:
            self._secret.wipe()
        self._secret = self._identity.whose = None
        self._so_auth.wipe()

    @property
    def secret(self) -> Secret:
        """The token's secret; CKR_USER_NOT_LOGGED_IN without a login. A token without PIN opens it when first used."""
        with self._lock:
            if self._secret is None:
                row = self.row
                if not row.no_pin:
                    raise Error(CKR.USER_NOT_LOGGED_IN, "log in first")
                self._bind(row)
                with self._try(row, None) as auth:
                    self._secret = Secret(self._unseal(row, auth))
                self._identity.whose = row.uuid
            return self._secret

    def init_pin(self, pin: bytes) -> None:
        """Set the user's PIN, by the SO, whom the TPM lets replace it but not read what it protects."""
        check_new(pin, self._config.pin_min)
        with self._lock:
            row = self.row
            user, so = Blob(row.user_public, row.user_private), Blob(row.so_public, row.so_private)
            new = auth_value(row, CKU.USER, pin)
            with self.tries[CKU.SO].guard(row):
                blob = provision.reset_user_auth(self._bound(), user, so, _branches(row), bytes(self._so_auth), new)
            self._store.update_token(row, user_private=blob.private, user_pin_set=True)
            self.tries[CKU.USER].clear()

    def set_pin(self, user: int, old: bytes, new: bytes) -> None:
        """Change the PIN of a role."""
        check_new(new, self._config.pin_min)
        with self._lock:
            row = self.row
            self._bind(row)
            new_auth = auth_value(row, user, new)
            if user == CKU.SO:
                with self.tries[user].attempt(row, old, row.so_private) as auth:
                    so = provision.change_auth(self.tpm, Blob(row.so_public, row.so_private), auth, new_auth)
                self._store.update_token(row, so_private=so.private)
                self._so_auth.set(new_auth)
            else:
                _require_user_pin(row)
                blob = Blob(row.user_public, row.user_private)
                with self.tries[user].attempt(row, old, row.user_private) as auth:
                    blob = provision.change_user_auth(self.tpm, blob, _branches(row), auth, new_auth)
                self._store.update_token(row, user_private=blob.private)

    # -- what the token is bound to

    def bind(self, pin: bytes | None, wish: Wish) -> None:
        """Have the token open as is wished, by its PIN: see `Token.bind`."""
        with self._lock:
            row = self.row
            self._bind(row)
            fields = self._binding.seal_anew(row, *self._opened(row, pin), wish)
            self._store.update_token(row, **fields)

    def reseal(self, pin: bytes | None, others: Sequence[dict[int, bytes]]) -> None:
        """Have the token open in the present state and in others: see `Token.reseal`."""
        with self._lock:
            row = self.row
            self._bind(row)
            wish = binding.Wish.same(row, others)
            fields = self._binding.seal(row, *self._opened(row, pin), wish)
            self._store.update_token(row, **fields)

    def _opened(self, row: TokenRow, pin: bytes | None) -> tuple[bytes, bytes]:
        """Return the token's secret and the authorisation value that opens it."""
        with self._try(row, pin) as auth:
            return self._unseal(row, auth), auth

    def time(self) -> Time:
        """Return what the TPM counts: boots, and time."""
        self._bound()
        return bound.read_time(self.tpm)

    def why_shut(self) -> str:
        """Return why the token does not open now: see `Binding.why_shut`."""
        row = self.row
        return self._binding.why_shut(row) if row.policy else ""

    def recover(self, code: str, pin: bytes | None, *, bound: bool) -> None:
        """Set a new PIN by the recovery code: see `Token.recover`."""
        if pin is not None:
            check_new(pin, self._config.pin_min)
        with self._lock:
            row = self.row
            self._bind(row)
            wish = binding.Wish.same(row)
            auth = b"" if pin is None else auth_value(row, CKU.USER, pin)
            secret = self._binding.recovered(row, code)
            seal = self._binding.seal if bound else self._binding.seal_anew
            fields = seal(row, secret, auth, wish if bound else binding.Wish())
            self._store.update_token(row, **fields, user_pin_set=pin is not None)
            self.tries[CKU.USER].clear()

    # -- keys

    def create(self, template: bytes, value: bytes = b"") -> KeyMaterial:
        """Create a key in the TPM from a TPMT_PUBLIC, or from the value of a secret key."""
        made, auth = self._new_key()
        return made.in_tpm(self._bound().create(template, auth, value))

    def import_key(self, public: bytes, number: bytes) -> KeyMaterial:
        """Import a key from outside into the TPM, from its TPMT_PUBLIC and its secret number: see `importing`."""
        made, auth = self._new_key()
        return made.in_tpm(importing.import_key(self._bound(), public, auth, number))

    def copy(self, record: Record) -> KeyMaterial:
        """Have the TPM wrap a key once more, under another authorisation value; the key itself stays as it is."""
        usable = self._usable(record)
        made, auth = self._new_key()
        return made.in_tpm(provision.change_auth(self._bound(), usable, usable.auth, auth))

    def _new_key(self) -> tuple[KeyMaterial, bytes]:
        """Return what a new key begins with, and its authorisation value: without a login it is kept with the key."""
        made = key_material.KeyMaterial()
        if self._secret is not None or self.row.no_pin:
            return made, self.secret.auth(made.uuid)
        made.auth = urandom(32)
        return made, made.auth

    def _usable(self, record: Record, *, resident: bool = True) -> Key:
        if record.tpm_public is None or record.tpm_private is None:
            raise Error(CKR.DEVICE_ERROR, "this key is not in the TPM")
        auth = record.auth or self.secret.auth(record.uuid)
        text = record.attributes.get(CKA.P11TPM_POLICY)
        condition = None if text is None else self._binding.condition(text)
        handle = record.resident if resident else 0
        return Key(record.uuid, record.tpm_public, record.tpm_private, auth, handle, condition)

    def _use_once(self, key: Object) -> None:
        """Use a key once; CKR_USER_NOT_LOGGED_IN if it waits for the PIN (CKA_ALWAYS_AUTHENTICATE)."""
        if key.waits and not self.row.no_pin:
            raise Error(CKR.USER_NOT_LOGGED_IN, "the key wants the PIN before each use (CKA_ALWAYS_AUTHENTICATE)")
        key.waits = key.is_set(CKA.ALWAYS_AUTHENTICATE)

    def secret_of(self, key: Object) -> bytes:
        """Return the secret part of a private key in software for one use; CKR_USER_NOT_LOGGED_IN as `_use_once`.

        RSA and EC: PKCS #8 DER; other keys: the private number. CKR_KEY_TYPE_INCONSISTENT for a key in the TPM.
        """
        if key.record.secret is None or key.in_tpm:
            raise Error(CKR.KEY_TYPE_INCONSISTENT, "the key has no secret part, or one that the TPM alone can use")
        self._use_once(key)
        return key.hidden()

    def _use(
        self, key: Object, work: Callable[Concatenate[Tpm, Key, P], T], /, *arguments: P.args, **options: P.kwargs
    ) -> T:
        """Have the TPM do some work with a key; one that is not where it should be resident is loaded."""
        usable = self._usable(key.record)
        self._use_once(key)
        tpm = self._bound()
        try:
            return work(tpm, usable, *arguments, **options)
        except NotResidentError:
            result = work(tpm, self._usable(key.record, resident=False), *arguments, **options)
            self.residents.lost(key.record)
            return result
        except TpmError as error:
            if usable.condition is None or error.code not in POLICY_REFUSALS:
                raise
            raise binding.refused_use(usable.condition.states) from None

    def ecdsa(self, key: Object, digest: bytes) -> tuple[int, int]:
        """Sign a digest of 32, 48 or 64 bytes in the TPM and return r and s."""
        return self._use(key, Tpm.sign, digest)

    def rsa(self, key: Object, block: bytes) -> bytes:
        """Perform the RSA private operation in the TPM on a block as long as the modulus."""
        return self._use(key, Tpm.rsa, block)

    def ecdh(self, key: Object, point: tuple[int, int]) -> bytes:
        """Multiply a key and a point of its curve in the TPM and return the x coordinate, as long as the field."""
        return self._use(key, Tpm.ecdh, point)

    def aes(self, key: Object, mode: str, iv: bytes, data: bytes, *, encrypt: bool) -> bytes:
        """Encrypt or decrypt at most 1,024 bytes in the TPM: see `symmetric.crypt`."""
        return self._use(key, symmetric.crypt, mode, iv, data, encrypt=encrypt)

    def hmac(self, key: Object, digest: str, message: bytes) -> bytes:
        """Compute the HMAC of a message in the TPM."""
        for _ in range(_SEQUENCES):
            try:
                return self._use(key, symmetric.mac, digest, message)
            except DisplacedError:
                continue
        raise Error(CKR.DEVICE_ERROR, "the TPM has no room for a long message beside what other threads do")

    def random(self, count: int) -> bytes:
        """Return random bytes of the TPM."""
        return self._bound().random(count)

    def seed(self, seed: bytes) -> None:
        """Add a seed to the TPM's generator of random numbers."""
        self.tpm.stir(seed)

    # -- keys that stay in the TPM

    @property
    def residents(self) -> Residents:
        """The keys that stay in the TPM."""
        return residents.Residents(self._store, self._bound(), self._identity.id)

    def evict(self, records: list[Record]) -> None:
        """Evict those of these keys that are resident from the TPM; CKR_ACTION_PROHIBITED if its owner has to agree."""
        resident = [record for record in records if record.resident]
        if resident:
            self.residents.evict(resident)


def connect(config: Config, store: Store) -> Tpm:
    """Return the TPM of the configuration; nothing is opened yet."""
    return Tpm(config.tcti, trusted=config.bus == "trusted", is_ours=store.has_public)


def _require_user_pin(row: TokenRow) -> None:
    if not row.user_pin_set:
        raise Error(CKR.USER_PIN_NOT_INITIALIZED, "the user has no PIN: the SO has not set one")


def _branches(row: TokenRow) -> tuple[bytes, ...]:
    """Return the policies that the token's user object accepts."""
    states = state.States.parse(row.policy).digests(pin=not row.no_pin) if row.policy else ()
    return policy.branches(row.so_public, *states)


def new_row(
    ties: Binding, label: str, so_pin: bytes | None, pin: bytes | None, wish: Wish | None, *, no_pin: bool
) -> TokenRow:
    """Make the TPM objects of a new token, and its row, which is not in the store yet."""
    uuid, salt = urandom(16), urandom(16)
    ground = provision.provision(ties.tpm)
    row = TokenRow(
        uuid=uuid,
        label=label,
        serial=uuid[:8].hex(),
        salt=salt,
        no_pin=no_pin,
        user_pin_set=pin is not None,
        srk_handle=ground.srk.handle,
        srk_public=ground.srk.public,
        tpm=ground.tpm,
        capabilities=ground.capabilities,
        created=int(time()),
    )
    # A role without a PIN gets a random one that nobody knows: the SO, or the user until the SO has set one.
    so_auth = auth_value(row, CKU.SO, so_pin if so_pin is not None else urandom(32))
    user_auth = b"" if no_pin else auth_value(row, CKU.USER, pin if pin is not None else urandom(32))
    so = provision.create_so(ties.tpm, so_auth)
    row.so_public, row.so_private = so.public, so.private
    row.update(ties.seal_anew(row, urandom(SIZE), user_auth, wish or binding.Wish()))
    return row
