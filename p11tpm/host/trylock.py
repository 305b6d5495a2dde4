"""One process at a time tries a PIN on the TPM, and the next one learns whether that try was accounted for.

A lock file in the store's directory, which its owner alone can open, has one byte. It is written before a try and after
its end, in place: that takes no room on a full disk, and outlives a process that is killed in between.
"""

from __future__ import annotations

import posix
from _stat import S_IFDIR, S_IMODE, S_IROTH, S_ISDIR, S_ISREG
from time import monotonic, sleep

from p11tpm.ck import CKR
from p11tpm.error import Error, rv_of
from p11tpm.host.descriptor import Descriptor
from p11tpm.host.imports import Late, import_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import fcntl
    from typing import Self
else:
    fcntl = Late("fcntl")

NAME = "p11tpm.lock"
_PATIENCE_WITH_STRANGERS = 10.0  # seconds
_BEGUN, _ENDED = b"!", b"."
_FLAGS = posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK

_held: set[Descriptor] = set()  # of the locks of this process


class TryLock:
    """The lock of a store's directory.

    Others are waited for, `patience` seconds at most: CKR_FUNCTION_FAILED. Where there is no such file and none can be
    made, the directory itself is locked, and nothing is noted. If any user can lock that, it is waited for ten seconds
    at most, and the try is made without the lock. A file system without locks has none.
    """

    __slots__ = ("_descriptor", "_directory", "_patience")
    _descriptor: Descriptor

    def __init__(self, directory: str, patience: float) -> None:
        self._directory = directory
        self._patience = patience

    def __enter__(self) -> Self:
        began = monotonic()
        while True:
            self._lock(began)
            if self._is_in_place():
                return self
            self._close()
            if monotonic() > began + self._patience:
                raise _too_long()

    def _is_in_place(self) -> bool:
        """Check that the locked file is the one that the next process will lock: the file may be another one by now."""
        if not self._descriptor.is_ours():
            return False
        status = posix.fstat(self._descriptor.number)
        if S_ISDIR(status.st_mode):
            return True
        try:
            there = posix.lstat(f"{self._directory}/{NAME}")
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)

    def _lock(self, began: float) -> None:
        """Open what is to be locked, and lock it, in the time that is left since the wait `began`."""
        with import_lock:
            self._descriptor = Descriptor(_open(self._directory))
            _held.add(self._descriptor)
        anybody = posix.fstat(self._descriptor.number).st_mode & (S_IFDIR | S_IROTH) == S_IFDIR | S_IROTH
        deadline = began + (min(self._patience, _PATIENCE_WITH_STRANGERS) if anybody else self._patience)
        while self._descriptor.is_ours():
            try:
                fcntl.flock(self._descriptor.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if monotonic() > deadline:
                    if anybody:
                        return
                    self._close()
                    raise _too_long() from None
                sleep(0.005)
            except OSError:
                return
            else:
                return

    def begin(self) -> bool:
        """Note that a try begins; False if that cannot be noted, or if an earlier try was noted and not its end."""
        if not self._descriptor.is_ours():
            return False
        try:
            before = posix.pread(self._descriptor.number, 1, 0)
            return posix.pwrite(self._descriptor.number, _BEGUN, 0) == 1 and before != _BEGUN
        except OSError:
            return False

    def end(self) -> None:
        """Note that the try was accounted for; if that cannot be noted, the next process does not know of it."""
        if self._descriptor.is_ours():
            try:
                posix.pwrite(self._descriptor.number, _ENDED, 0)
            except OSError:
                return

    def __exit__(self, *_: object) -> None:
        try:
            if self._descriptor.is_ours():
                fcntl.flock(self._descriptor.number, fcntl.LOCK_UN)  # a child of a fork may have the descriptor, too
        except OSError:
            pass
        finally:
            self._close()

    def _close(self) -> None:
        with import_lock:
            _held.discard(self._descriptor)
            self._descriptor.close()


def _too_long() -> Error:
    return Error(CKR.FUNCTION_FAILED, "another program has been trying a PIN for too long")


def _open(directory: str) -> int:
    """Open the lock file, mode 0600 whatever the umask of the host is, or else the directory."""
    try:
        descriptor = posix.open(f"{directory}/{NAME}", _FLAGS, 0o600)
    except OSError:
        return _open_directory(directory)
    try:
        _require_private(descriptor, f"{directory}/{NAME}")
    except BaseException:
        posix.close(descriptor)
        raise
    return descriptor


def _require_private(descriptor: int, path: str) -> None:
    status = posix.fstat(descriptor)
    if not S_ISREG(status.st_mode):
        raise Error(CKR.GENERAL_ERROR, f"{path} is not a regular file: remove it")
    if S_IMODE(status.st_mode) != 0o600 and status.st_uid == posix.geteuid():
        posix.fchmod(descriptor, 0o600)


def _open_directory(directory: str) -> int:
    try:
        return posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError as error:
        raise Error(rv_of(error), f"{directory}: {error.strerror}") from None


def abandon_locks() -> None:
    """Close the locks of the parent in a forked child: else they would not end before both processes do."""
    while _held:
        _held.pop().close()
