"""Files with a PIN: the users who may be able to read them, and their content."""

from __future__ import annotations

import posix
from _stat import S_ISREG

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.host.config import PIN_LONGEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.host.config import Config

_OTHERS = 0o077  # every right of the group and of others


class PinFile:
    """A file whose only line is a PIN, or another secret: `what`.

    It belongs to root or the effective user, and nobody else has any right to it. The group may read a `credential`, a
    file that systemd made for this service: it lets the service's user read it by an access control list, and stat(2)
    shows the mask of such a list as the rights of the group (acl(5)).
    Every fault is CKR_FUNCTION_FAILED: the login was not tried, and may be good once the file is.
    """

    __slots__ = ("_forbidden", "_what", "path")

    def __init__(self, path: str, what: str = "PIN", *, credential: bool = False) -> None:
        self.path = path
        self._what = what
        self._forbidden = _OTHERS & ~0o040 if credential else _OTHERS

    @classmethod
    def configured(cls, config: Config) -> PinFile:
        """Return the file that a configuration names."""
        return cls(config.pin_file, credential=config.pin_credential)

    def read(self) -> bytes:
        """Read the PIN from a regular file, which may be reached by way of symbolic links."""
        try:
            descriptor = posix.open(self.path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY)
            try:
                if not S_ISREG(posix.fstat(descriptor).st_mode):
                    raise self._error("not a regular file: write the PIN into one")
                return self.take(descriptor)
            finally:
                posix.close(descriptor)
        except OSError as error:
            why = f"{error.strerror}: put the {self._what} there, in a file of uid {posix.geteuid()} with mode 600"
            raise self._error(why) from None

    def take(self, descriptor: int) -> bytes:
        """Read the PIN from what is open already: a file, or a pipe, which is nobody else's."""
        status = posix.fstat(descriptor)
        if S_ISREG(status.st_mode):
            self._check(status)
        content = b""
        while len(content) <= PIN_LONGEST + 2 and (part := posix.read(descriptor, PIN_LONGEST + 3 - len(content))):
            content += part
        pin = content.removesuffix(b"\n").removesuffix(b"\r")
        if not 0 < len(pin) <= PIN_LONGEST or b"\n" in pin:
            raise self._error(f"write the {self._what}, up to {PIN_LONGEST} bytes, and nothing else, on one line")
        return pin

    def _check(self, status: posix.stat_result) -> None:
        if status.st_mode & self._forbidden:
            raise self._error(f"others could read or change the {self._what} in it: chmod 600 {self.path}")
        if status.st_uid not in {0, posix.geteuid()}:
            raise self._error(f"it belongs to uid {status.st_uid}: chown {posix.geteuid()} {self.path}")

    def _error(self, why: str) -> Error:
        return Error(CKR.FUNCTION_FAILED, f"{self.path}: {why}")
