"""TokenTpm: what the TPM does for one token. It checks PINs, keeps the secret, makes keys and uses them.

It is made when a token first needs its TPM, with all that this takes: a host that lists keys does not.
"""

from __future__ import annotations

import _thread
from posix import urandom
from time import time

from p11tpm.ck import CKA, CKR, CKU
from p11tpm.core.pin import Tries, auth_value, check_new
from p11tpm.core.secret import SIZE, Secret
from p11tpm.error import Error, GoneError
from p11tpm.host import log
from p11tpm.host.imports import import_lock
from p11tpm.host.locked import Locked
from p11tpm.store import TokenRow
from p11tpm.tpm import Blob, DisplacedError, Key, Srk, Tpm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from p11tpm.core.key_material import KeyMaterial
    from p11tpm.core.object import Object
    from p11tpm.core.residents import Residents
    from p11tpm.host.config import Config
    from p11tpm.host.ending import Ending
    from p11tpm.store import Record, Store

    T = TypeVar("T")
    D = TypeVar("D")

_SEQUENCES = 5  # times that a long message is begun, if other threads cost it what the TPM had of it


class TokenTpm:
    """A token's part of the TPM.

    `find` gives the token as it is in the store now; `whose` is its identifier at the login, None if nobody is
    logged in.
    """

    def __init__(self, config: Config, store: Store, token: int, find: Callable[[], TokenRow]) -> None:
        self._config = config
        self._store = store
        self._token = token
        self._find = find
        self.whose: bytes | None = None
        self._lock = _thread.RLock()
        self._secret: Secret | None = None
        self._so_auth = Locked()
        self._srk: Srk | None = None
        self.tpm = connect(config, store)
        self.tries = {user: Tries(config, store, self.tpm, token, user) for user in (CKU.SO, CKU.USER)}

    @property
    def row(self) -> TokenRow:
        """The token as it is in the store now; GoneError if it is not the one that somebody is logged in to."""
        row = self._find()
        if self.whose not in {None, row.uuid}:
            raise GoneError(deleted=False)
        return row

    @property
    def srk(self) -> Srk:
        """The storage root key that was trusted when the token was made."""
        srk = self._srk  # another thread may forget it at any time
        if srk is None:
            row = self.row
            srk = self._srk = Srk(row.srk_handle, row.srk_public)
        return srk

    # -- PINs

    def open(self, user: int, pin: bytes) -> None:
        """Check a PIN, and keep what a login of this role needs; see `Tries.attempt` for the errors."""
        with self._lock:
            row = self.row
            if user == CKU.SO:
                self._so_auth.set(
                    self.tries[user].attempt(row, pin, row.so_private, lambda auth: self._open_so(row, auth))
                )
            else:
                _require_user_pin(row)
                self._secret = self._attempt_user(row, pin)
            self.whose = row.uuid

    def _open_so(self, row: TokenRow, auth: bytes) -> bytes:
        self.tpm.unseal(self.srk, Blob(row.so_public, row.so_private), auth)
        return auth

    def _attempt_user(self, row: TokenRow, pin: bytes) -> Secret:
        return self.tries[CKU.USER].attempt(row, pin, row.user_private, lambda auth: self._open_user(row, auth))

    def _open_user(self, row: TokenRow, auth: bytes) -> Secret:
        return Secret(self.tpm.unseal(self.srk, Blob(row.user_public, row.user_private), auth))

    def check_user(self, pin: bytes) -> None:
        """Check the user's PIN and nothing else; see `Tries.attempt` for the errors."""
        with self._lock:
            row = self.row
            _require_user_pin(row)
            self._attempt_user(row, pin).wipe()

    def shut(self, ending: Ending, *, for_ever: bool = False) -> None:
        """Wipe what a login left, and let go of the TPM; with `for_ever` it is not opened again."""
        with ending.holding(self._lock, self.tpm.connection.give_up):
            self._wipe()
            self._srk = None
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
        self._secret = self.whose = None
        self._so_auth.wipe()

    @property
    def secret(self) -> Secret:
        """The token's secret; CKR_USER_NOT_LOGGED_IN without a login. A token without PIN opens it when first used."""
        with self._lock:
            if self._secret is None:
                row = self.row
                if not row.no_pin:
                    raise Error(CKR.USER_NOT_LOGGED_IN, "log in first")
                self._secret = self.tries[CKU.USER].guard(row, lambda: self._open_user(row, b""))
                self.whose = row.uuid
            return self._secret

    def init_pin(self, pin: bytes) -> None:
        """Set the user's PIN, by the SO, whom the TPM lets replace it but not read what it protects."""
        with import_lock:
            from p11tpm.tpm import provision

        check_new(pin, self._config.pin_min)
        with self._lock:
            row = self.row
            user, so = Blob(row.user_public, row.user_private), Blob(row.so_public, row.so_private)
            new = auth_value(row, CKU.USER, pin)
            so_auth = bytes(self._so_auth)
            blob = self.tries[CKU.SO].guard(
                row, lambda: provision.reset_user_auth(self.tpm, self.srk, user, so, so_auth, new)
            )
            self._store.update_token(row, user_private=blob.private, user_pin_set=True)
            self.tries[CKU.USER].clear()

    def set_pin(self, user: int, old: bytes, new: bytes) -> None:
        """Change the PIN of a role."""
        check_new(new, self._config.pin_min)
        with self._lock:
            row = self.row
            tries = self.tries[user]
            if user == CKU.SO:
                private = tries.attempt(row, old, row.so_private, lambda auth: self._change_so(row, auth, new))
                self._store.update_token(row, so_private=private)
                self._so_auth.set(auth_value(row, CKU.SO, new))
            else:
                _require_user_pin(row)
                private = tries.attempt(row, old, row.user_private, lambda auth: self._change_user(row, auth, new))
                self._store.update_token(row, user_private=private)

    def _change_so(self, row: TokenRow, auth: bytes, new: bytes) -> bytes:
        with import_lock:
            from p11tpm.tpm import provision

        so = Blob(row.so_public, row.so_private)
        return provision.change_auth(self.tpm, self.srk, so, auth, auth_value(row, CKU.SO, new)).private

    def _change_user(self, row: TokenRow, auth: bytes, new: bytes) -> bytes:
        with import_lock:
            from p11tpm.tpm import provision

        user, new_auth = Blob(row.user_public, row.user_private), auth_value(row, CKU.USER, new)
        return provision.change_user_auth(self.tpm, self.srk, user, row.so_public, auth, new_auth).private

    # -- keys

    def create(self, template: bytes, value: bytes = b"") -> KeyMaterial:
        """Create a key in the TPM from a TPMT_PUBLIC, or from the value of a secret key."""
        made, auth = self._new_key()
        return made.in_tpm(self.tpm.create(self.srk, template, auth, value))

    def import_key(self, public: bytes, number: bytes) -> KeyMaterial:
        """Import a key from outside into the TPM, from its TPMT_PUBLIC and its secret number: see `importing`."""
        with import_lock:
            from p11tpm.tpm import importing

        made, auth = self._new_key()
        return made.in_tpm(importing.import_key(self.tpm, self.srk, public, auth, number))

    def copy(self, record: Record) -> KeyMaterial:
        """Have the TPM wrap a key once more, under another authorisation value; the key itself stays as it is."""
        with import_lock:
            from p11tpm.tpm import provision

        usable = self._usable(record)
        made, auth = self._new_key()
        return made.in_tpm(provision.change_auth(self.tpm, self.srk, usable, usable.auth, auth))

    def _new_key(self) -> tuple[KeyMaterial, bytes]:
        """Return what a new key begins with, and its authorisation value: without a login it is kept with the key."""
        with import_lock:
            from p11tpm.core.key_material import KeyMaterial

        made = KeyMaterial()
        if self._secret is not None or self.row.no_pin:
            return made, self.secret.auth(made.uuid)
        made.auth = urandom(32)
        return made, made.auth

    def _usable(self, record: Record) -> Key:
        if record.tpm_public is None or record.tpm_private is None:
            raise Error(CKR.DEVICE_ERROR, "this key is not in the TPM")
        auth = record.auth or self.secret.auth(record.uuid)
        return Key(record.uuid, record.tpm_public, record.tpm_private, auth, record.resident)

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

    def _use(self, what: Callable[[Srk, Key, D], T], key: Object, data: D) -> T:
        record = key.record
        usable = self._usable(record)
        self._use_once(key)
        result = what(self.srk, usable, data)
        if record.resident != usable.resident:
            self.residents.lost(record)
        return result

    def ecdsa(self, key: Object, digest: bytes) -> tuple[int, int]:
        """Sign a digest of 32, 48 or 64 bytes in the TPM and return r and s."""
        return self._use(self.tpm.sign, key, digest)

    def rsa(self, key: Object, block: bytes) -> bytes:
        """Perform the RSA private operation in the TPM on a block as long as the modulus."""
        return self._use(self.tpm.rsa, key, block)

    def ecdh(self, key: Object, point: tuple[int, int]) -> bytes:
        """Multiply a key and a point of its curve in the TPM and return the x coordinate, as long as the field."""
        return self._use(self.tpm.ecdh, key, point)

    def aes(self, key: Object, mode: str, iv: bytes, data: bytes, *, encrypt: bool) -> bytes:
        """Encrypt or decrypt at most 1,024 bytes in the TPM: see `symmetric.crypt`."""
        with import_lock:
            from p11tpm.tpm import symmetric

        def crypt(srk: Srk, usable: Key, data: bytes) -> bytes:
            return symmetric.crypt(self.tpm, srk, usable, mode, iv, data, encrypt=encrypt)

        return self._use(crypt, key, data)

    def hmac(self, key: Object, digest: str, message: bytes) -> bytes:
        """Compute the HMAC of a message in the TPM."""
        with import_lock:
            from p11tpm.tpm import symmetric

        def mac(srk: Srk, usable: Key, message: bytes) -> bytes:
            for _ in range(_SEQUENCES):
                try:
                    return symmetric.mac(self.tpm, srk, usable, digest, message)
                except DisplacedError:
                    self._usable(key.record)  # not after a logout
            raise Error(CKR.DEVICE_ERROR, "the TPM has no room for a long message beside what other threads do")

        return self._use(mac, key, message)

    def random(self, count: int) -> bytes:
        """Return random bytes of the TPM."""
        return self.tpm.random(self.srk, count)

    def seed(self, seed: bytes) -> None:
        """Add a seed to the TPM's generator of random numbers."""
        self.tpm.stir(seed)

    # -- keys that stay in the TPM

    @property
    def residents(self) -> Residents:
        """The keys that stay in the TPM."""
        with import_lock:
            from p11tpm.core.residents import Residents

        return Residents(self._store, self.tpm, self._token)

    def evict(self, records: list[Record]) -> None:
        """Evict those of these keys that are resident from the TPM; CKR_ACTION_PROHIBITED if its owner has to agree."""
        resident = [record for record in records if record.resident]
        if resident:
            self.residents.evict(self.srk, resident)


def connect(config: Config, store: Store) -> Tpm:
    """Return the TPM of the configuration; nothing is opened yet."""
    return Tpm(config.tcti, trusted=config.bus == "trusted", is_ours=store.has_public)


def _require_user_pin(row: TokenRow) -> None:
    if not row.user_pin_set:
        raise Error(CKR.USER_PIN_NOT_INITIALIZED, "the user has no PIN: the SO has not set one")


def new_row(tpm: Tpm, label: str, so_pin: bytes | None, pin: bytes | None, *, no_pin: bool) -> TokenRow:
    """Make the TPM objects of a new token, and its row, which is not in the store yet."""
    with import_lock:
        from p11tpm.tpm import provision

    uuid, salt = urandom(16), urandom(16)
    ground = provision.provision(tpm)
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
    so, user = provision.create_token(tpm, ground.srk, so_auth, user_auth, urandom(SIZE), no_pin=no_pin)
    row.so_public, row.so_private = so.public, so.private
    row.user_public, row.user_private = user.public, user.private
    return row
