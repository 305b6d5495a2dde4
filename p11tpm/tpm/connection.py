"""The connection to a TPM: bytes out, bytes in, and what can go wrong on the way."""

from __future__ import annotations

from errno import (
    EACCES,
    EAGAIN,
    EALREADY,
    EBUSY,
    ECANCELED,
    ECONNREFUSED,
    EHOSTUNREACH,
    EINVAL,
    EMFILE,
    ENFILE,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENXIO,
    EPERM,
    ETIMEDOUT,
)
from posix import strerror
from time import sleep

from p11tpm._native import ffi, lib
from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.host.imports import Late, import_lock
from p11tpm.host.system import environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.tpm import tabrmd
    from p11tpm.tpm.tabrmd import Broker
else:
    tabrmd = Late("p11tpm.tpm.tabrmd")

_FLUSH = lib.FLUSH_MS / 1000  # seconds
_BROKER_PAUSES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 0)  # seconds: it has just been started
_ABSENT = {ENOENT, ENXIO, ENODEV, ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT}

_NO_PERMISSION = (
    CKR.DEVICE_ERROR,
    "no permission for the TPM ({tcti}): add the user to group tss (usermod -aG tss NAME) and log in again",
)
_REFUSALS = {  # why a connection could not be opened, and what to do about it
    EACCES: _NO_PERMISSION,
    EPERM: _NO_PERMISSION,
    EALREADY: (CKR.DEVICE_ERROR, "the TPM ({tcti}) still owes the response to an earlier command of this program"),
    EBUSY: (CKR.DEVICE_ERROR, "another program uses the TPM ({tcti}): use device:/dev/tpmrm0 instead"),
    ECANCELED: (CKR.DEVICE_REMOVED, "the program is ending, or has called C_Finalize"),
    EMFILE: (CKR.HOST_MEMORY, "the program has as many files open as it may: let it have more (ulimit -n)"),
    ENFILE: (CKR.HOST_MEMORY, "the machine has as many files open as it may (/proc/sys/fs/file-max)"),
    EINVAL: (CKR.GENERAL_ERROR, "{tcti} is not a connection to a TPM that tpm2-tss knows: correct 'tcti'"),
    ENOMEM: (CKR.HOST_MEMORY, "no memory for the connection to the TPM"),
    lib.CONNECTION_REFUSED_IN_SETUID: (
        CKR.DEVICE_ERROR,
        "a setuid program can use device:, swtpm: and the system bus, not {tcti}",
    ),
    lib.CONNECTION_REFUSED_IN_NEW_ROOT: (
        CKR.DEVICE_ERROR,
        "a program that has changed its root directory can use device:, swtpm: and the system bus, not {tcti}",
    ),
}


_NOT_KEPT = (
    "the kernel cannot swap sessions in and out of the TPM (EFAULT): another program has had one for very long without"
    " using it, or others fill the TPM. End the programs that use it ('fuser -v /dev/tpm*' lists them), or flush what"
    " they have: tpm2_flushcontext -s and -l"
)


class StaleError(Exception):
    """The connection was closed while nobody used it: sessions and loaded keys are gone, and nothing was sent."""


class LostError(Error):
    """The connection broke while a command was under way; whether the TPM did it is not known."""

    def __init__(self, error: int) -> None:
        super().__init__(CKR.DEVICE_REMOVED, f"the connection to the TPM broke: {strerror(error)}")


class NotKeptError(LostError):
    """The kernel's resource manager could not save or load what this program has in the TPM, and flushed it.

    It does not tell the TPM's response code: that of a context gap, since a program has not used a session while the
    TPM saved 65,535 others (Part 2, TPM_RC_CONTEXT_GAP), or that of a TPM that others have filled without the manager.
    """

    def __init__(self) -> None:
        Error.__init__(self, CKR.DEVICE_MEMORY, _NOT_KEPT)


class SilentError(Error):
    """The TPM did not answer in time, or the caller's run or login ended meanwhile; the connection was dropped.

    Loaded objects are left in the TPM. `guess`: the command tried a PIN.
    """

    def __init__(self, command: str, why: str, *, guess: bool) -> None:
        dropped = "the connection was dropped, and what it had loaded is left in the TPM"
        super().__init__(CKR.DEVICE_ERROR, f"the TPM did not answer {command} {why}; {dropped}")
        self.guess = guess


class AbsentError(Error):
    """The connection could not be opened: the TPM was asked nothing."""

    guess = False


_FAILURES: dict[int, type[Exception]] = {  # of a command
    lib.CONNECTION_STALE: StaleError,
    lib.CONNECTION_NOT_KEPT: NotKeptError,
    ETIMEDOUT: TimeoutError,
    ECANCELED: InterruptedError,
}


def _refused(tcti: str, error: int) -> AbsentError:
    """Return why a connection could not be opened and what to do about it."""
    rv, why = _REFUSALS.get(error, (CKR.DEVICE_REMOVED if error in _ABSENT else CKR.DEVICE_ERROR, ""))
    return AbsentError(rv, why.format(tcti=tcti) or f"no TPM at {tcti}: {strerror(error)}")


class Connection:
    """A connection that opens when it is needed and closes itself `idle_seconds` after its last use.

    At its end everything that commands on it left in the TPM is flushed. Each opening has another `epoch`.
    """

    __slots__ = ("_broker", "_native", "_response", "_size", "_tcti", "epoch")

    def __init__(self, tcti: str, idle_seconds: float) -> None:
        """Prepare a connection; nothing is opened yet. `tcti` is written as for tpm2-tss, "device:/dev/tpmrm0"."""
        self._tcti = tcti
        native = lib.connection_new(tcti.encode(), round(idle_seconds * 1000))
        if native == ffi.NULL:
            raise MemoryError
        self._native = ffi.gc(native, lib.connection_free)
        self._response = ffi.new("uint8_t[]", lib.RESPONSE_SIZE)
        self._size = ffi.new("size_t *")
        self._broker: Broker | None = None  # while it is asked
        self.epoch = 0

    def open(self) -> bool:
        """Open what is not open; False if what was loaded by earlier commands is gone."""
        epoch = ffi.new("uint64_t *")
        error = lib.connection_open(self._native, -1, epoch)
        if error == lib.CONNECTION_WANTS_SOCKET:
            error = self._open_by_broker(epoch)
        if error:
            raise _refused(self._tcti, error)
        same = bool(self.epoch == epoch[0])
        self.epoch = epoch[0]
        return same

    def rest(self) -> None:
        """End what began with `open`: from here on swtpm may serve other programs."""
        lib.connection_rest(self._native)

    def _open_by_broker(self, epoch: Any) -> int:
        """Open what tpm2-abrmd has to give; the error is as connection_open gives it."""
        for pause in _BROKER_PAUSES:
            error = self._ask_broker(epoch)
            if error != EAGAIN:
                break
            sleep(pause)
        return error

    def _ask_broker(self, epoch: Any) -> int:
        try:
            self._broker = tabrmd.Broker(self._tcti)
            if lib.secure() and self._broker.on_session_bus:
                return lib.CONNECTION_REFUSED_IN_SETUID  # type: ignore[no-any-return]
            self._broker.ask({} if lib.secure() else environment())
            return self._handed_over(self._broker, epoch)
        except TimeoutError:
            return ETIMEDOUT
        except OSError as error:
            return error.errno or EINVAL
        finally:
            if self._broker:
                self._broker.close()
            self._broker = None

    def _handed_over(self, broker: Broker, epoch: Any) -> int:
        while True:
            broker.wait()
            with import_lock:  # a fork has to wait: else the child has a descriptor of which it does not know
                descriptor = broker.take()
                if descriptor is not None:
                    return lib.connection_open(self._native, descriptor, epoch)  # type: ignore[no-any-return]

    def transact(self, command: bytes, seconds: float) -> bytes:
        """Send a command and wait for its response, without the GIL; the caller serialises.

        StaleError if the connection was closed since `open`, LostError if it broke, NotKeptError if a resource manager
        could not keep what is ours, TimeoutError if there was no response within `seconds`, InterruptedError if
        `give_up` was called; the last three close it.
        """
        wait = max(0, round(seconds * 1000))
        native = self._native
        error = lib.connection_transact(native, self.epoch, wait, command, len(command), self._response, self._size)
        size = lib.RESPONSE_SIZE if error else self._size[0]
        response = b"" if error else bytes(ffi.buffer(self._response, size))
        ffi.memmove(self._response, bytes(size), size)  # without a session even half of it may be a secret
        if error:
            raise _FAILURES[error]() if error in _FAILURES else LostError(error)
        return response

    @property
    def has_manager(self) -> bool:
        """Whether a resource manager flushes what a program leaves, and hides it from others; while it is open."""
        return bool(lib.connection_has_manager(self._native))

    @property
    def is_exclusive(self) -> bool:
        """Whether no other program can have the TPM open; while it is open."""
        return bool(lib.connection_is_exclusive(self._native))

    def ended(self, handle: int) -> None:
        """Note that a session ended by itself, so that nothing flushes what gets its handle next."""
        lib.connection_ended(self._native, handle)

    def close(self, seconds: float = 2 * _FLUSH) -> bool:
        """Flush what was left in the TPM and close; `open` opens it again. False if it did not answer in time."""
        return not lib.connection_close(self._native, max(0, round(seconds * 1000)))

    def give_up(self) -> None:
        """Cancel the wait for a response; it closes the connection."""
        lib.connection_give_up(self._native)

    def end(self) -> None:
        """Never open again, and give up."""
        lib.connection_end(self._native)

    def abandon(self) -> None:
        """Close the parent's connection in a forked child; nothing is sent, and this object is of no more use."""
        lib.connection_abandon(self._native)
        if self._broker:
            self._broker.close()
        ffi.gc(self._native, None)  # what the parent's threads may have locked is never freed here
