"""The TPM as the layers above see it: about ten operations, bytes in and bytes out."""

from __future__ import annotations

from p11tpm.algorithm import CURVES, HASHES
from p11tpm.ck import CKR
from p11tpm.error import TPM, Error, TpmError
from p11tpm.host.imports import import_lock
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
    from typing import TypeVar

    from p11tpm.host.ending import Ending
    from p11tpm.tpm.codec import Key, Srk
    from p11tpm.tpm.wire import Session

    T = TypeVar("T")

_NULL = u16(0x0010)
_ECDSA = u16(0x0018)
_HASH_OF_SIZE = {HASHES[name].size: id_ for name, id_ in HASH_IDS.items()}
_NO_TICKET = u16(0x8024) + u32(0x40000007) + u16(0)  # TPMT_TK_HASHCHECK: the key is not restricted
_RANDOM_MOST = 64  # a TPM gives no more than its largest digest at a time, and may give less
_SEED_MOST = 128  # bytes of a TPM2B_SENSITIVE_DATA that every TPM takes (Part 3, clause 16.2.1)

# What a persistent handle answers that is empty, or has another object than the key that was left there
_NOT_RESIDENT = frozenset({TPM.HANDLE_1, TPM.AUTH_FAIL, TPM.BAD_AUTH, TPM.AUTH_UNAVAILABLE, TPM.LOCKOUT})
_BELOW_SRK = {command.START_AUTH_SESSION, command.LOAD, command.CREATE, command.IMPORT}

# TPM_PT: Part 2, clause 6.13
_CAP_TPM_PROPERTIES = 6
_PT_PERMANENT, _PT_LOCKOUT_COUNTER = 0x200, 0x20E
_LOCKOUT_AUTH_SET, _IN_LOCKOUT = 1 << 2, 1 << 9


class DisplacedError(Exception):
    """What an operation had loaded is gone since it gave way: it has to begin again."""


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

    # -- operations

    def unseal(self, srk: Srk, blob: Blob, auth: bytes) -> bytes:
        """Return what is sealed in an object. TpmError 0x98E: a wrong authorisation value, counted by the TPM."""
        return self.run(lambda: self._unseal(srk, blob, auth), srk)

    def _unseal(self, srk: Srk, blob: Blob, auth: bytes) -> bytes:
        loaded = self.loaded
        loaded.make_room(0)
        handle = loaded.load(srk, blob, salted=True)
        try:
            _, answer = self.wire.authorised(command.UNSEAL, loaded.session(srk), (handle,), auth, b"")
            return Reader(answer).buffer()
        finally:
            self.let_go(handle[0])

    def create(self, srk: Srk, public: bytes, auth: bytes, data: bytes = b"") -> Blob:
        """Make a key, or seal `data`, from a TPMT_PUBLIC; the authorisation value and the data are sent hidden."""
        return self.run(lambda: self._create(srk, public, auth, data), srk)

    def _create(self, srk: Srk, public: bytes, auth: bytes, data: bytes) -> Blob:
        parameters = sized(sized(auth) + sized(data)) + sized(public) + u16(0) + u32(0)  # no outsideInfo, no PCRs
        parent = self.loaded.srk(srk)
        _, answer = self.wire.authorised(command.CREATE, self.loaded.session(srk), (parent,), b"", parameters)
        reader = Reader(answer)
        private = reader.buffer()
        return Blob(reader.buffer(), private)

    def sign(self, srk: Srk, key: Key, digest: bytes) -> tuple[int, int]:
        """Sign a digest of 20, 32, 48 or 64 bytes by ECDSA: r and s."""
        scheme = _ECDSA + _HASH_OF_SIZE[len(digest)]
        reader = Reader(self.use(command.SIGN, srk, key, sized(digest) + scheme + _NO_TICKET))
        reader.take(4)
        return int.from_bytes(reader.buffer(), "big"), int.from_bytes(reader.buffer(), "big")

    def rsa(self, srk: Srk, key: Key, block: bytes) -> bytes:
        """Raise a block of the modulus's size to the private exponent: as many bytes."""
        answer = self.use(command.RSA_DECRYPT, srk, key, sized(block) + _NULL + u16(0))
        return Reader(answer).buffer().rjust(len(block), b"\0")

    def ecdh(self, srk: Srk, key: Key, point: tuple[int, int]) -> bytes:
        """Return the x coordinate of the product of the key and a point on its curve, as long as the curve's field."""
        size = CURVES[template.curve(key.public)].size
        x, y = (number.to_bytes(size, "big") for number in point)
        answer = self.use(command.ECDH_ZGEN, srk, key, sized(sized(x) + sized(y)))
        return Reader(Reader(answer).buffer()).buffer().rjust(size, b"\0")

    def use(self, what: command.Command, srk: Srk, key: Key, parameters: bytes) -> bytes:
        """Use a key with its own authorisation value, by a command on it alone, and give the response's parameters.

        The session has a salt only if the answer has to be hidden.
        """

        def use() -> bytes:
            session = self.loaded.session(srk, salted=what.hidden)  # before Load, which is content with any
            if key.resident:
                try:
                    return self._use_resident(what, session, key, parameters)
                except TpmError as error:
                    if error.code not in _NOT_RESIDENT:
                        raise
            handle = self.loaded.key(srk, key)
            answer = self.wire.authorised(what, session, (handle,), key.auth, parameters)[1]
            key.resident = 0
            return answer

        return self.run(use, srk)

    def _use_resident(self, what: command.Command, session: Session, key: Key, parameters: bytes) -> bytes:
        """Use a key where it is, as only that key can be: by its Name in a session, or by its own random value."""
        self.loaded.drop(key.id)
        handle = (key.resident, name_of(key.public))
        return self.wire.authorised(what, session, (handle,), key.auth, parameters)[1]

    def random(self, srk: Srk, count: int) -> bytes:
        """Return `count` random bytes of the TPM, hidden on the way."""
        return self.run(lambda: self._random(srk, count), srk)

    def _random(self, srk: Srk, count: int) -> bytes:
        session = self.loaded.session(srk)
        given = b""
        while len(given) < count:
            wanted = u16(min(count - len(given), _RANDOM_MOST))
            data = Reader(self.wire.authorised(command.GET_RANDOM, session, (), b"", wanted)[1]).buffer()
            if not data:
                raise Error(CKR.DEVICE_ERROR, "the TPM gives no random bytes")
            given += data
        return given[:count]

    def stir(self, seed: bytes) -> None:
        """Add a seed to the state of the TPM's random numbers, whose own entropy stays (Part 3, clause 16.2)."""
        self.run(lambda: self._stir(seed))

    def _stir(self, seed: bytes) -> None:
        for at in range(0, len(seed), _SEED_MOST):
            self.lock.give_way()
            self.wire.plain(command.STIR_RANDOM, parameters=sized(seed[at : at + _SEED_MOST]))

    def lockout(self) -> Lockout:
        """Ask for the state of the TPM's protection against guessing."""
        return self.run(self._lockout)

    def _lockout(self) -> Lockout:
        parameters = u32(_CAP_TPM_PROPERTIES) + u32(_PT_PERMANENT) + u32(32)
        reader = Reader(self.wire.plain(command.GET_CAPABILITY, parameters=parameters)[1])
        reader.take(5)
        return Lockout({reader.number(4): reader.number(4) for _ in range(reader.number(4))})

    def check(self, srk: Srk) -> None:
        """Check that the TPM has this storage root key: CKR_TOKEN_NOT_RECOGNIZED if it has another one, or none."""
        self.run(lambda: self.loaded.check(srk))

    def give_way(self) -> None:
        """Have other threads have the TPM in the middle of an operation, whose session may be another one since.

        DisplacedError if what it had loaded is gone.
        """
        epoch = self.connection.epoch
        self.connection.rest()
        self.lock.give_way()
        if not self.connection.open():
            self.loaded.forget()
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

    # -- trying again

    def run(self, action: Callable[[], T], srk: Srk | None = None) -> T:
        """Run an action on the open connection; again if the TPM was full, reset or away for a moment."""
        with self.lock:
            retry = Retry()
            while True:
                old = False
                try:
                    if not self.connection.open():
                        self.loaded.forget()
                    old = self.loaded.anything
                    return action()
                except (Error, StaleError, ValueError) as error:
                    self.connection.rest()
                    self._recover(retry, error, srk, old=old)
                finally:
                    self.connection.rest()
                    if not self._keep:
                        self.release()

    def _recover(self, retry: Retry, error: Exception, srk: Srk | None, *, old: bool) -> None:
        """Return if the action is to be run again, else raise its error.

        `old`: it used what was loaded before, in whose place a reset TPM may have something else.
        """
        refused = error.refused if isinstance(error, RefusedError) else None
        if retry.after(error, stale_possible=old and refused is not None and not refused.guess):
            self.release()
            return
        if isinstance(error, RefusedError) and retry.may_reclaim(error) and self._reclaim(error.code):
            return
        if refused in _BELOW_SRK and srk:
            self._diagnose(srk)
        if not isinstance(error, TpmError):
            self.release()
        raise outcome(error) from None

    def _reclaim(self, code: int) -> bool:
        """Flush what killed programs left in a TPM that stays full; say whether there was any."""
        with import_lock:
            from p11tpm.tpm.reclaim import reclaim

        self.release()
        try:
            self.connection.open()
            return not self.connection.has_manager and reclaim(self.wire, self._is_ours, code)
        except (Error, StaleError, ValueError):
            return False

    def _diagnose(self, srk: Srk) -> None:
        """Raise TOKEN_NOT_RECOGNIZED if a refusal came from another SRK than the token's."""
        try:
            self.loaded.check(srk)
        except (StaleError, ValueError):
            self.release()
