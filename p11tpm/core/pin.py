"""PINs: what the TPM is given for one, and how a mistaken program is kept from locking the TPM of the whole machine."""

from __future__ import annotations

from posix import urandom
from time import monotonic, time

from p11tpm.ck import CKF, CKR, CKU
from p11tpm.crypto import hashes
from p11tpm.error import POLICY_REFUSALS, TPM, Error, StateError, TpmError
from p11tpm.host.config import PIN_LONGEST
from p11tpm.store.rows import counts_guesses
from p11tpm.tpm import AbsentError, SilentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.host.config import Config
    from p11tpm.host.trylock import TryLock
    from p11tpm.store import Store, TokenRow
    from p11tpm.tpm import Lockout, Tpm

ROLES = {CKU.SO: "SO", CKU.USER: "USER"}
_FLAGS = {  # a failure was counted, one try is left, no try is left (clause 3.2, CK_TOKEN_INFO)
    CKU.SO: (CKF.SO_PIN_COUNT_LOW, CKF.SO_PIN_FINAL_TRY, CKF.SO_PIN_LOCKED),
    CKU.USER: (CKF.USER_PIN_COUNT_LOW, CKF.USER_PIN_FINAL_TRY, CKF.USER_PIN_LOCKED),
}
# Answers before the TPM looks at the value
_NOT_COUNTED = POLICY_REFUSALS | {TPM.LOCKOUT, TPM.PCR_CHANGED, TPM.AUTH_UNAVAILABLE}
_LOCKOUT_AGE = 1.0  # seconds for which the TPM's lockout state is not asked for again

# PINs that failed in this process, as a hash under a key of its own: they outlive a run, since hosts begin a new one
# with the same PIN. A mark belongs to one sealed object, which is another one after a change of the PIN.
_process_key = bytearray(32)
_failed: set[bytes] = set()


def auth_value(row: TokenRow, user: int, pin: bytes) -> bytes:
    """Return the TPM's authorisation value for a PIN: 32 bytes, the last one 01, since a TPM strips trailing zeros."""
    text = ROLES[user].encode() + b"|" + row.uuid + b"|" + pin
    return hashes.mac("sha256", row.salt, text)[:-1] + b"\x01"


def check_new(pin: bytes, shortest: int) -> None:
    """Refuse a new PIN that is too short or too long, in bytes: CKR_PIN_LEN_RANGE; or not UTF-8: CKR_PIN_INVALID."""
    if not shortest <= len(pin) <= PIN_LONGEST:
        raise Error(CKR.PIN_LEN_RANGE, f"a PIN has {shortest} to {PIN_LONGEST} bytes")
    try:
        pin.decode()
    except UnicodeDecodeError:
        raise Error(CKR.PIN_INVALID, "a PIN is UTF-8 text") from None


def reserve(max_tries: int) -> int:
    """Return the number of the TPM's tries that are left to everybody else once a PIN has failed."""
    return 0 if max_tries < 3 else max(1, min(8, max_tries // 4))


class Tries:
    """The wrong PINs of one role of one token, counted over all processes that use the store."""

    def __init__(self, config: Config, store: Store, tpm: Tpm, token: int, user: int) -> None:
        self._limit = config.pin_tries
        self._store = store
        self._tpm = tpm
        self._token = token
        self._user = user
        self._lockout: tuple[float, Lockout | Error] | None = None  # what the TPM said, and when

    def attempt(self, row: TokenRow, pin: bytes, private: bytes) -> Try:
        """Return a context in which the authorisation value of a PIN is tried on the TPM; see `Try`.

        `private` is the sealed object that the PIN opens: a PIN that failed on it is not tried on it again.
        """
        if not 0 < len(pin) <= PIN_LONGEST:
            raise Error(CKR.PIN_INCORRECT, f"a PIN has at most {PIN_LONGEST} bytes, and is not empty")
        mark = self._mark(pin, private)
        if mark in _failed:
            raise Error(CKR.PIN_INCORRECT, "this PIN was wrong before; it was not tried again")
        return Try(self, row, auth_value(row, self._user, pin), mark)

    def guard(self, row: TokenRow) -> Try:
        """Return a context in which the object that the role's PIN opens is used without that PIN; see `Try`."""
        return Try(self, row, b"", b"")

    def lock(self) -> TryLock:
        """Return the lock under which one process at a time tries a PIN."""
        return self._store.try_lock()

    def count(self, error: TpmError, mark: bytes) -> bool:
        """Count a failure; False if it cannot be written down, or if it is not known what the TPM made of it."""
        if error.code == TPM.AUTH_FAIL:
            _failed.add(mark)
            self._lockout = None
            count, _ = self._store.failures(self._token, ROLES[self._user])
            return self._store.add_failure(self._token, ROLES[self._user], count - self.failures(), int(time()))
        return error.code in _NOT_COUNTED

    def require_wise(self, row: TokenRow, *, noted: bool) -> int:
        """Return the number of wrong PINs that count; CKR_PIN_LOCKED if one more may be too many.

        A TPM that does not answer what it has counted is not asked again: CKR_DEVICE_ERROR.
        """
        self._lockout = None  # others may have tried PINs before
        if not noted:
            self._tpm.check()
        failures = self.failures()
        unwise = self._is_unwise(row, failures, noted=noted)
        if self._lockout and isinstance(self._lockout[1], SilentError):
            raise self._lockout[1]
        if unwise:
            why = "too many wrong PINs; wait for the TPM to forget them or let the SO reset it"
            raise Error(CKR.PIN_LOCKED, why)
        return failures

    def _is_unwise(self, row: TokenRow, failures: int, *, noted: bool) -> bool:
        """Return whether a failure could lock the TPM; it is only asked if there is a reason to doubt."""
        if not counts_guesses(row.so_public if self._user == CKU.SO else row.user_public):
            return False
        doubt = failures or not noted or self._store.any_failure()
        return bool(doubt) and self._used_up(failures, all_of_tpm=not noted)

    def _mark(self, pin: bytes, private: bytes) -> bytes:
        if not any(_process_key):
            _process_key[:] = urandom(32)
        return hashes.mac("sha256", _process_key, private + b"|" + pin)

    def clear(self) -> None:
        """Forget the failures: the PIN was right, or there is a new one."""
        self._store.clear_failures(self._token, ROLES[self._user])
        self._lockout = None

    def failures(self) -> int:
        """Return the number of wrong PINs that count now; one is forgiven whenever the TPM forgives one.

        They are no more than the TPM has counted, by a clock of its own that nobody sets back.
        """
        count, last = self._store.failures(self._token, ROLES[self._user])
        if not count:
            return 0
        lockout = self._asked()
        if lockout is None:
            return count
        forgiven = max(0, int(time()) - last) // lockout.interval if lockout.interval else 0
        return min(max(0, count - forgiven), lockout.counter)

    def _asked(self) -> Lockout | None:
        """Ask the TPM for its lockout state, at most once a second; None if it does not answer."""
        if self._lockout is None or monotonic() - self._lockout[0] > _LOCKOUT_AGE:
            said: Lockout | Error
            try:
                said = self._tpm.lockout()
            except Error as error:
                said = error
            self._lockout = (monotonic(), said)
        return None if isinstance(self._lockout[1], Error) else self._lockout[1]

    def _used_up(self, failures: int, *, all_of_tpm: bool = False) -> bool:
        """Return whether there are too many failures; with `all_of_tpm` what the TPM has counted stands for them."""
        lockout = self._asked()
        if all_of_tpm and lockout is None:
            raise Error(CKR.DEVICE_ERROR, "the TPM does not say how many wrong PINs it has counted")
        if failures >= self._limit or lockout is None:
            return failures >= self._limit
        if all_of_tpm and lockout.counter >= self._limit:
            return True
        return lockout.locked or lockout.counter + reserve(lockout.max_tries) >= lockout.max_tries

    def flags(self) -> int:
        """Return the role's part of CK_TOKEN_INFO.flags; the TPM is only asked after a failure."""
        failures = self.failures()
        if not failures:
            return 0
        low, final, locked = _FLAGS[self._user]
        if self._used_up(failures):
            return low | locked
        return low | (final if failures + 1 == self._limit else 0)


class Try:
    """One use of the object that a role's PIN opens, as a context with the authorisation value to use.

    It is refused if trying is not wise: CKR_PIN_LOCKED. It is noted before it is made, and a failure is counted. Where
    that cannot be noted, or where it is not known how an earlier one ended, the TPM is asked first whether it has the
    token's storage root key, and what it has counted. What the TPM answers to a PIN becomes CKR_PIN_INCORRECT,
    CKR_PIN_LOCKED, or CKR_FUNCTION_FAILED if a policy of the token is not satisfied.
    """

    __slots__ = ("_auth", "_failures", "_lock", "_mark", "_noted", "_row", "_tries")

    def __init__(self, tries: Tries, row: TokenRow, auth: bytes, mark: bytes) -> None:
        """Prepare it; `mark` tells the PIN from others, empty if none is tried."""
        self._tries = tries
        self._row = row
        self._auth = auth
        self._mark = mark
        self._lock = tries.lock()
        self._noted = False
        self._failures = 0

    def __enter__(self) -> bytes:
        self._lock.__enter__()
        try:
            self._begin()
        except BaseException:
            self._lock.__exit__()
            raise
        return self._auth

    def _begin(self) -> None:
        self._noted = self._lock.begin()
        try:
            self._failures = self._tries.require_wise(self._row, noted=self._noted)
        except Error:
            if self._noted:
                self._lock.end()
            raise

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        try:
            self._end(error)
        finally:
            self._lock.__exit__()

    def _end(self, error: BaseException | None) -> None:
        if error is None:
            if self._failures:
                self._tries.clear()
            self._lock.end()
        elif isinstance(error, AbsentError | SilentError | StateError):
            if self._noted and not error.guess:
                self._lock.end()
        elif isinstance(error, TpmError):
            if self._tries.count(error, self._mark):
                self._lock.end()
            if self._mark or error.code != TPM.AUTH_FAIL:
                raise _meaning(error) from None


def _meaning(error: TpmError) -> Error:
    """Return what the TPM's answer to a PIN means."""
    if error.code == TPM.AUTH_FAIL:
        return Error(CKR.PIN_INCORRECT, "the PIN is wrong")
    if error.code == TPM.LOCKOUT:
        return Error(CKR.PIN_LOCKED, "the TPM is locked out after too many wrong PINs")
    if error.code in POLICY_REFUSALS:
        return Error(CKR.FUNCTION_FAILED, "the policy of the token is not satisfied")
    return error
