"""Checks that nobody else may change the store and configuration files, and how the store is created.

"We" are the effective user. Only we and root may be able to change a file of ours, to replace it, or to replace a
directory on the way to it. A directory of the kind of /tmp (sticky) may be on the way if the next
step is ours or root's. csrc/origin.c has the same rules for code, before there is Python; but there the group of the
file's owner, of the same number, may write.
"""

from __future__ import annotations

import posix
from _stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISREG, S_ISVTX, S_IWGRP, S_IWOTH

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.host import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LINKS = 40  # as many symbolic links as Linux itself follows on the way to a file


def _require_ours(path: str, status: posix.stat_result) -> None:
    if status.st_uid not in {0, posix.geteuid()}:
        raise Error(CKR.GENERAL_ERROR, f"{path} belongs to another user (uid {status.st_uid}): not used")


def _require_unshared(path: str, status: posix.stat_result) -> None:
    _require_ours(path, status)
    if status.st_mode & (S_IWGRP | S_IWOTH):
        raise Error(CKR.GENERAL_ERROR, f"other users may write to {path}: not used; run 'chmod go-w' on it")


def _step(path: str, status: posix.stat_result) -> None:
    if status.st_mode & S_ISVTX and S_ISDIR(status.st_mode):
        _require_ours(path, status)
    else:
        _require_unshared(path, status)


def _log_step(path: str, status: posix.stat_result) -> None:
    """Refuse a step on the way to a log: as `_step`, but a group may write, as Ubuntu's syslog to /var/log."""
    _require_ours(path, status)
    if status.st_mode & (S_ISVTX | S_IWOTH) == S_IWOTH:
        raise Error(CKR.GENERAL_ERROR, f"everybody may write to {path}: not used; run 'chmod o-w' on it")


def check_way(path: str, *, whole: bool = False, step: Callable[[str, posix.stat_result], None] = _step) -> None:
    """Refuse a path if somebody else may replace a directory or a link above its last component; one may be missing.

    With `whole` the last component, and where it points to, is checked too. `step` checks one directory. Raises
    CKR_GENERAL_ERROR, or OSError if the way cannot be followed.
    """
    parts = [*filter(None, path.split("/"))][::-1]
    parts = parts if whole else parts[1:]
    here, links = "/", 0
    step(here, posix.lstat(here))
    while parts:
        part = parts.pop()
        if part in {".", ".."}:
            here = here if part == "." else system.dirname(here)
            continue
        entry = f"{here.rstrip('/')}/{part}"
        try:
            status = posix.lstat(entry)
        except FileNotFoundError:
            return
        if not S_ISLNK(status.st_mode):
            step(entry, status)
            here = entry
            continue
        _require_ours(entry, status)
        links += 1
        if links > _LINKS:
            raise Error(CKR.GENERAL_ERROR, f"too many symbolic links on the way to {path}")
        target = posix.readlink(entry)
        here = "/" if target.startswith("/") else here
        parts.extend(filter(None, target.split("/")[::-1]))


def check_directory(path: str) -> None:
    """Refuse a directory, and the way to it, if somebody else may change it, or if it is a symbolic link."""
    check_way(path)
    status = posix.lstat(path)
    if not S_ISDIR(status.st_mode):
        raise Error(CKR.GENERAL_ERROR, f"{path} is not a directory, or a symbolic link to one: not used")
    _require_unshared(path, status)


def check_file(path: str) -> None:
    """Refuse a file in a checked directory if somebody else may change it, or if it is a symbolic link."""
    status = posix.lstat(path)
    if not S_ISREG(status.st_mode):
        raise Error(CKR.GENERAL_ERROR, f"{path} is not a regular file: not used")
    _require_unshared(path, status)


def make_directory(path: str) -> None:
    """Make a directory and what is missing above it, mode 0700 whatever the umask of the host is."""
    check_way(path)
    above = system.dirname(path)
    if not system.is_directory(above):
        make_directory(above)
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:  # made by somebody at the same time; check_directory() says whether by us
        return
    if S_IMODE(posix.lstat(path).st_mode) != 0o700:
        posix.chmod(path, 0o700)


def make_file(path: str) -> None:
    """Make an empty file, mode 0600 whatever the umask of the host is; one that is there stays as it is."""
    # O_EXCL also because closing a second descriptor of an open database would drop SQLite's locks (POSIX, fcntl).
    try:
        descriptor = posix.open(
            path, posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC | posix.O_NOFOLLOW, 0o600
        )
    except FileExistsError:
        return
    try:
        posix.fchmod(descriptor, 0o600)
    finally:
        posix.close(descriptor)


def read_checked(path: str, most: int) -> bytes | None:
    """Read a small file that nobody else may change, by way of symbolic links or not; None if there is none."""
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        status = posix.fstat(descriptor)
        if not S_ISREG(status.st_mode) or status.st_size > most:
            raise Error(CKR.GENERAL_ERROR, f"{path} is not a regular file of at most {most} bytes: not used")
        _require_unshared(path, status)
        check_way(path, whole=True)
        return posix.read(descriptor, most)
    finally:
        posix.close(descriptor)


def is_hidden(path: str) -> bool:
    """Return whether a directory on the way to a file may not be searched: nobody can say whether the file is there."""
    try:
        posix.lstat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def check_log(path: str) -> None:
    """Refuse the path of a log if another user can choose what is written to, or if it is not a regular file."""
    check_way(path, step=_log_step)
    try:
        _require_log(path, posix.lstat(path))
    except FileNotFoundError:
        return


def open_log(path: str) -> int:
    """Open a log to append to, and make it, mode 0600, if it is missing; raises as `check_log`, or OSError."""
    check_way(path, step=_log_step)
    flags = posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC
    descriptor = posix.open(path, flags | posix.O_NOFOLLOW | posix.O_NOCTTY | posix.O_NONBLOCK, 0o600)
    try:
        _require_log(path, posix.fstat(descriptor))
    except Error:
        posix.close(descriptor)
        raise
    return descriptor


def _require_log(path: str, status: posix.stat_result) -> None:
    _require_ours(path, status)
    if not S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise Error(CKR.GENERAL_ERROR, f"{path} is not a regular file with one name: not used")


def lockers(path: str) -> list[tuple[int, int]]:
    """Return the processes, with their users, that have a lock on a file, except this one; those that proc(5) shows."""
    found = []
    try:
        status = posix.stat(path)
        file = f"{posix.major(status.st_dev):02x}:{posix.minor(status.st_dev):02x}:{status.st_ino}"
        for line in _locks().decode().splitlines():
            words = line.split()  # 1: POSIX ADVISORY READ 24837 fe:00:2172626 0 EOF
            if len(words) > 5 and words[5] == file and int(words[4]) != posix.getpid():
                found.append((int(words[4]), posix.stat(f"/proc/{words[4]}").st_uid))
    except OSError:
        pass
    return found


def _locks() -> bytes:
    descriptor, content = posix.open("/proc/locks", posix.O_RDONLY | posix.O_CLOEXEC), b""
    try:
        while part := posix.read(descriptor, 1 << 16):
            content += part
    finally:
        posix.close(descriptor)
    return content


def may_write(path: str) -> bool:
    """Return whether we may change a file, or make it if it is missing."""
    above = system.dirname(path)
    if not posix.access(path, posix.W_OK, effective_ids=True):
        if system.exists(path):
            return False
        while not system.exists(above):
            above = system.dirname(above)
    return posix.access(above, posix.W_OK | posix.X_OK, effective_ids=True)
