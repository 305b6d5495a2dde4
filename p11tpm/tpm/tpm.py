"""The TPM as the layers above see it: about ten operations, bytes in and bytes out."""

from __future__ import annotations

from p11tpm.algorithm import CURVES, HASHES
from p11tpm.ck import CKR
from p11tpm.error import TPM, Error, TpmError
from p11tpm.host.imports import Late
from p11tpm.tpm import command, template
from p11tpm.tpm.codec import HASH_IDS, Blob, Reader, name_of, sized, u16, u32
from p11tpm.tpm.connection import Connection, StaleError
from p11tpm.tpm.loaded import Loaded
from p11tpm.tpm.retry import Retry, outcome
from p11tpm.tpm.turns import Turns
from p11tpm.tpm.wire import RefusedError, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Concatenate, ParamSpec, TypeVar

    from p11tpm.host.ending import Ending
    from p11tpm.tpm import reclaim
    from p11tpm.tpm.codec import Key, Srk

    P = ParamSpec("P")
    T = TypeVar("T")
else:
    reclaim = Late("p11tpm.tpm.reclaim")

_NULL = u16(0x0010)
_ECDSA = u16(0x0018)
_HASH_OF_SIZE = {HASHES[name].size: id_ for name, id_ in HASH_IDS.items()}
_NO_TICKET = u16(0x8024) + u32(0x40000007) + u16(0)  # TPMT_TK_HASHCHECK: the key is not restricted
_RANDOM_MOST = 64  # a TPM gives no more than its largest digest at a time, and may give less
_SEED_MOST = 128  # bytes of a TPM2B_SENSITIVE_DATA that every TPM takes (Part 3, clause 16.2.1)

# What a persistent handle answers that is empty, or has another object than the key that was left there
NOT_RESIDENT = frozenset({TPM.HANDLE_1, TPM.AUTH_FAIL, TPM.BAD_AUTH, TPM.AUTH_UNAVAILABLE, TPM.LOCKOUT})
_BELOW_SRK = {command.START_AUTH_SESSION, command.LOAD, command.CREATE, command.IMPORT}

# TPM_PT: Part 2, clause 6.13
_CAP_TPM_PROPERTIES = 6
_PT_PERMANENT, _PT_LOCKOUT_COUNTER = 0x200, 0x20E
_LOCKOUT_AUTH_SET, _IN_LOCKOUT = 1 << 2, 1 << 9


class DisplacedError(Exception):
    """What an operation had loaded is gone since it gave way: it has to begin again."""


class NotResidentError(Exception):
    """A key is not in the TPM where it was to be resident; nothing was done with it."""


def repeated(action: Callable[Concatenate[Tpm, P], T]) -> Callable[Concatenate[Tpm, P], T]:
    """Make `action` run on the open TPM, alone, and again if the TPM was full, reset or away for a moment."""

    def run(tpm: Tpm, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with tpm.lock:
            retry = Retry()
            while True:
                old = False
                try:
                    old = tpm.open()
                    return action(tpm, *args, **kwargs)
                except (Error, StaleError, ValueError) as error:
                    tpm.connection.rest()
                    tpm.recover(retry, error, old=old)
                finally:
                    tpm.rest()

    return run


class Lockout:
    """The TPM's protection against guessing: tries and times (seconds) are those of the whole machine."""

    __slots__ = ("auth_set", "counter", "interval", "locked", "max_tries", "recovery")

    def __init__(self, properties: dict[int, int]) -> None:
        numbers = [properties.get(_PT_LOCKOUT_COUNTER + index, 0) for index in range(4)]
        self.counter, self.max_tries, self.interval, self.recovery = numbers
        permanent = properties.get(_PT_PERMANENT, 0)
        self.locked = bool(permanent & _IN_LOCKOUT)
        self.auth_set = bool(permanent & _LOCKOUT_AUTH_SET)


class Tpm:
    """A TPM, opened when it is first needed and let go `idle_seconds` after its last use.

    Every operation raises Error: DEVICE_REMOVED without a TPM, DEVICE_ERROR for a tampered response,
    TOKEN_NOT_RECOGNIZED if the SRK is not this TPM's, or TpmError with the TPM's code. Threads take turns. With
    `idle_seconds` 0 there is no timer thread, and everything is let go at the end of each operation. `trusted`: nobody
    can listen on the way to the TPM, so passwords do where else a session is needed. `is_ours`: see `reclaim`.
    """

    def __init__(
        self,
        tcti: str,
        idle_seconds: float = 10,
        *,
        trusted: bool = False,
        is_ours: Callable[[bytes], bool] = lambda _public: False,
    ) -> None:
        self.lock = Turns()
        self.sequences = Turns()  # one at a time has a sequence in the TPM; taken before `lock`
        self.connection = Connection(tcti, idle_seconds)
        self.wire = Wire(self.connection)
        self.loaded = Loaded(self.wire, trusted=trusted)
        self._keep = idle_seconds > 0
        self._is_ours = is_ours

    @property
    def srk(self) -> Srk | None:
        """The storage root key below which keys are made and loaded; None if none was found or named yet."""
        return self.loaded.srk

    def bind(self, srk: Srk) -> None:
        """Work below this storage root key from now on; everything below another one is flushed."""
        with self.lock:
            if self.srk is not None and (self.srk.handle, self.srk.public) != (srk.handle, srk.public):
                self.release()
            self.loaded.srk = srk

    # -- operations

    @repeated
    def unseal(self, blob: Blob, auth: bytes) -> bytes:
        """Return what is sealed in an object. TpmError 0x98E: a wrong authorisation value, counted by the TPM."""
        loaded = self.loaded
        loaded.make_room(0)
        handle = loaded.load(blob, salted=True)
        try:
            _, answer = self.wire.authorised(command.UNSEAL, loaded.session(), (handle,), auth, b"")
            return Reader(answer).buffer()
        finally:
            self.let_go(handle[0])

    @repeated
    def create(self, public: bytes, auth: bytes, data: bytes = b"") -> Blob:
        """Make a key, or seal `data`, from a TPMT_PUBLIC; the authorisation value and the data are sent hidden."""
        parameters = sized(sized(auth) + sized(data)) + sized(public) + u16(0) + u32(0)  # no outsideInfo, no PCRs
        parent = self.loaded.parent()
        _, answer = self.wire.authorised(command.CREATE, self.loaded.session(), (parent,), b"", parameters)
        reader = Reader(answer)
        private = reader.buffer()
        return Blob(reader.buffer(), private)

    def sign(self, key: Key, digest: bytes) -> tuple[int, int]:
        """Sign a digest of 20, 32, 48 or 64 bytes by ECDSA: r and s."""
        scheme = _ECDSA + _HASH_OF_SIZE[len(digest)]
        reader = Reader(self.use(command.SIGN, key, sized(digest) + scheme + _NO_TICKET))
        reader.take(4)
        return int.from_bytes(reader.buffer(), "big"), int.from_bytes(reader.buffer(), "big")

    def rsa(self, key: Key, block: bytes) -> bytes:
        """Raise a block of the modulus's size to the private exponent: as many bytes."""
        answer = self.use(command.RSA_DECRYPT, key, sized(block) + _NULL + u16(0))
        return Reader(answer).buffer().rjust(len(block), b"\0")

    def ecdh(self, key: Key, point: tuple[int, int]) -> bytes:
        """Return the x coordinate of the product of the key and a point on its curve, as long as the curve's field."""
        size = CURVES[template.curve(key.public)].size
        x, y = (number.to_bytes(size, "big") for number in point)
        answer = self.use(command.ECDH_ZGEN, key, sized(sized(x) + sized(y)))
        return Reader(Reader(answer).buffer()).buffer().rjust(size, b"\0")

    @repeated
    def use(self, what: command.Command, key: Key, parameters: bytes) -> bytes:
        """Use a key with its own authorisation value, by a command on it alone, and return the response's parameters.

        The session has a salt only if the answer has to be hidden. NotResidentError if the key is said to be resident
        and is not.
        """
        loaded = self.loaded
        if key.condition is not None:
            answer: bytes = key.condition.use(self, what, key, parameters)
            return answer
        session = loaded.session(salted=what.hidden)  # before Load, which is content with any
        if not key.resident:
            return self.wire.authorised(what, session, (loaded.key(key),), key.auth, parameters)[1]
        loaded.drop(key.id)
        handle = (key.resident, name_of(key.public))  # only that key can be used: by its Name, or by its random value
        try:
            return self.wire.authorised(what, session, (handle,), key.auth, parameters)[1]
        except TpmError as error:
            if error.code in NOT_RESIDENT:
                raise NotResidentError from None
            raise

    @repeated
    def random(self, count: int) -> bytes:
        """Return `count` random bytes of the TPM, hidden on the way."""
        session = self.loaded.session()
        given = b""
        while len(given) < count:
            wanted = u16(min(count - len(given), _RANDOM_MOST))
            data = Reader(self.wire.authorised(command.GET_RANDOM, session, (), b"", wanted)[1]).buffer()
            if not data:
                raise Error(CKR.DEVICE_ERROR, "the TPM gives no random bytes")
            given += data
        return given[:count]

    @repeated
    def stir(self, seed: bytes) -> None:
        """Add a seed to the state of the TPM's random numbers, whose own entropy stays (Part 3, clause 16.2)."""
        for at in range(0, len(seed), _SEED_MOST):
            self.lock.give_way()
            self.wire.plain(command.STIR_RANDOM, parameters=sized(seed[at : at + _SEED_MOST]))

    @repeated
    def lockout(self) -> Lockout:
        """Ask for the state of the TPM's protection against guessing."""
        parameters = u32(_CAP_TPM_PROPERTIES) + u32(_PT_PERMANENT) + u32(32)
        reader = Reader(self.wire.plain(command.GET_CAPABILITY, parameters=parameters)[1])
        reader.take(5)
        return Lockout({reader.number(4): reader.number(4) for _ in range(reader.number(4))})

    @repeated
    def check(self, *, made: bool = False) -> None:
        """Check that the TPM has the storage root key: CKR_TOKEN_NOT_RECOGNIZED if it has another one, or none.

        With `made` a key that is not persistent is made anew and compared.
        """
        self.loaded.check()
        if made:
            self.loaded.parent()

    def give_way(self) -> None:
        """Have other threads have the TPM in the middle of an operation, whose session may be another one since.

        DisplacedError if what it had loaded is gone.
        """
        epoch = self.connection.epoch
        self.connection.rest()
        self.lock.give_way()
        self.open()
        if self.connection.epoch != epoch:
            raise DisplacedError

    def let_go(self, handle: int) -> None:
        """Flush an object after its use, about which a failure says nothing; the connection's end flushes it too."""
        try:
            self.loaded.flush(handle)
        except (Error, StaleError):
            self.release()

    def forget(self, id_: Hashable) -> None:
        """Unload a key that was destroyed."""
        with self.lock:
            try:
                self.loaded.drop(id_)
            except (Error, StaleError):
                self.release()

    def release(self) -> None:
        """Flush everything, close the connection and end the timer thread; the next operation opens it again."""
        with self.lock:
            self.loaded.forget()
            self.connection.close()

    def end(self, ending: Ending, *, for_ever: bool = False) -> bool:
        """Release in time, though other threads wait for the TPM; False if something was left in it.

        With `for_ever` nobody opens the connection again.
        """
        with ending.holding(self.lock, self.connection.give_up) as held:
            flushed = False
            if held:
                self.loaded.forget()
                flushed = self.connection.close(ending.left())
            if for_ever:
                self.connection.end()
        return flushed

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection without a word to the TPM. Of no more use afterwards."""
        self.loaded.forget()
        self.connection.abandon()

    # -- trying again: see `repeated`

    def open(self) -> bool:
        """Open what is not open; return whether anything is loaded that may be another program's after a reset."""
        if not self.connection.open():
            self.loaded.forget()
        return self.loaded.anything

    def rest(self) -> None:
        """End an operation: others may have the TPM, which is released unless it is kept open."""
        self.connection.rest()
        if not self._keep:
            self.release()

    def recover(self, retry: Retry, error: Exception, *, old: bool) -> None:
        """Return if the action is to be run again, else raise its error.

        `old`: it used what was loaded before, in whose place a reset TPM may have something else.
        """
        refused = error.refused if isinstance(error, RefusedError) else None
        if retry.after(error, stale_possible=old and refused is not None and not refused.guess):
            self.release()
            return
        if isinstance(error, RefusedError) and retry.may_reclaim(error) and self._reclaim(error.code):
            return
        if refused in _BELOW_SRK and self.srk is not None:
            self._diagnose()
        if not isinstance(error, TpmError):
            self.release()
        raise outcome(error) from None

    def _reclaim(self, code: int) -> bool:
        """Flush what killed programs left in a TPM that stays full; say whether there was any."""
        self.release()
        try:
            self.connection.open()
            return not self.connection.has_manager and reclaim.reclaim(self.wire, self._is_ours, code)
        except (Error, StaleError, ValueError):
            return False

    def _diagnose(self) -> None:
        """Raise TOKEN_NOT_RECOGNIZED if a refusal came from another SRK than the token's."""
        try:
            self.loaded.check()
        except (StaleError, ValueError):
            self.release()
