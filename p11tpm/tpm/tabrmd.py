"""tpm2-abrmd, which answers one call over D-Bus with a socket for TPM commands.

Its own library starts GLib's threads in the host and does not survive a fork. Of libraries for D-Bus, those in Python
lose a descriptor that the body of the answer does not mention, as is the case here, or let it be inherited. So the few
messages are made here: D-Bus Specification 0.43, "Message Protocol" and "Authentication Protocol".
"""

from __future__ import annotations

import _socket
import posix
from errno import EACCES, EAGAIN, ECONNREFUSED, EINVAL, ENODEV, EPROTO, ETIMEDOUT, EUSERS

from p11tpm.host.descriptor import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DEFAULTS = {"bus_name": "com.intel.tss2.Tabrmd", "bus_type": "system"}
_SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
_SECONDS = 25  # the bus may have to start the daemon: as long as other clients of D-Bus wait
_ANSWER_MOST = 65536  # bytes: an answer has some hundred
_ERROR = 3  # type of a message
_ERROR_NAME, _REPLY_SERIAL = 4, 5  # codes of header fields
_HELLO, _CREATE = 1, 2  # serial numbers of our calls
_ERRORS = {
    "org.freedesktop.DBus.Error.AccessDenied": EACCES,
    "org.freedesktop.DBus.Error.NoReply": ETIMEDOUT,
    "org.freedesktop.DBus.Error.TimedOut": ETIMEDOUT,
    "com.intel.tss2.Tabrmd.Error.General": EUSERS,  # its --max-connections are all in use
    # tpm2-abrmd 3.0 takes its name on the bus before it is ready for calls:
    **dict.fromkeys(
        (f"org.freedesktop.DBus.Error.Unknown{what}" for what in ("Interface", "Method", "Object")), EAGAIN
    ),
    "com.intel.tss2.Tabrmd.Error.Internal": EAGAIN,
}


def _refusal(error: int) -> OSError:
    return OSError(error, posix.strerror(error))


def _unescaped(value: str) -> bytes:
    first, *rest = value.split("%")
    return first.encode(errors="surrogateescape") + b"".join(
        bytes.fromhex(part[:2]) + part[2:].encode(errors="surrogateescape") for part in rest
    )


def address(text: str) -> bytes:
    """Return the first socket of the Unix domain in a D-Bus address, as connect(2) wants it; OSError without one."""
    for one in text.split(";"):
        transport, _, pairs = one.partition(":")
        values = dict(pair.partition("=")[::2] for pair in pairs.split(","))
        try:
            if transport == "unix" and "path" in values:
                return _unescaped(values["path"])
            if transport == "unix" and "abstract" in values:
                return b"\0" + _unescaped(values["abstract"])
        except ValueError:
            continue
    raise _refusal(EINVAL)


def call(serial: int, destination: str, path: str, interface: str, member: str) -> bytes:
    """Return a method call without arguments."""
    fields = b""
    for code, kind, text in ((1, b"o", path), (2, b"s", interface), (3, b"s", member), (6, b"s", destination)):
        value = text.encode(errors="surrogateescape")
        fields += bytes(-len(fields) % 8)
        fields += bytes([code, 1]) + kind + b"\0" + len(value).to_bytes(4, "little") + value + b"\0"
    numbers = b"".join(number.to_bytes(4, "little") for number in (0, serial, len(fields)))
    return b"l\1\0\1" + numbers + fields + bytes(-len(fields) % 8)


class Message:
    """A message of the bus: its type, its size in bytes, and of its header fields the texts and numbers, by code."""

    def __init__(self, data: bytes) -> None:
        """Read what begins at `data`; IndexError if it is not all there."""
        self._data = data
        self._little = data[0] == ord("l")
        self.type = data[1]
        end = 16 + self._number(12)
        self.size = end + -end % 8 + self._number(4)
        if len(data) < self.size:
            raise IndexError
        self.fields = dict(self._fields(16, end))

    def _number(self, at: int) -> int:
        value = self._data[at : at + 4]
        if len(value) < 4:
            raise IndexError
        return int.from_bytes(value, "little" if self._little else "big")

    def _fields(self, at: int, end: int) -> Iterator[tuple[int, str | int]]:
        while at < end:
            at += -at % 8
            code, kind, at = self._data[at], self._data[at + 2 : at + 3], at + 4
            if kind == b"u":
                yield code, self._number(at)
                at += 4
                continue
            start, size = (at + 1, self._data[at]) if kind == b"g" else (at + 4, self._number(at))
            yield code, self._data[start : start + size].decode(errors="replace")
            at = start + size + 1


class Broker:
    """One request to tpm2-abrmd, which `tcti` names as for tpm2-tss; OSError says what is wrong (EAGAIN: try again).

    It holds the connection to the bus until `close`; what it gave by `take` goes on without.
    """

    def __init__(self, tcti: str) -> None:
        """Read "tabrmd:bus_name=NAME,bus_type=system" (these are the defaults; or session)."""
        settings = dict(pair.partition("=")[::2] for pair in tcti.partition(":")[2].split(",") if pair)
        if not settings.keys() <= _DEFAULTS.keys() or settings.get("bus_type") not in {None, "system", "session"}:
            raise _refusal(EINVAL)
        self._name = settings.get("bus_name", _DEFAULTS["bus_name"])
        self.on_session_bus = settings.get("bus_type", _DEFAULTS["bus_type"]) == "session"
        self._bus = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._own = Descriptor(self._bus.fileno())
        self._bus.settimeout(_SECONDS)
        self._received = b""
        self._descriptors: list[int] = []

    def ask(self, environment: Mapping[str, str]) -> None:
        """Connect to the bus, whose address the environment may give, and send everything at once."""
        self._bus.connect(address(self._bus_address(environment)))
        user = str(posix.geteuid()).encode().hex().encode()
        self._bus.sendall(
            b"\0AUTH EXTERNAL %b\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n" % user
            + call(_HELLO, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
            + call(_CREATE, self._name, "/com/intel/tss2/Tabrmd/Tcti", "com.intel.tss2.TctiTabrmd", "CreateConnection"),
            _socket.MSG_NOSIGNAL,  # the host may not have expected SIGPIPE
        )

    def _bus_address(self, environment: Mapping[str, str]) -> str:
        if not self.on_session_bus:
            return environment.get("DBUS_SYSTEM_BUS_ADDRESS") or _SYSTEM_BUS
        usual = f"unix:path={environment.get('XDG_RUNTIME_DIR', '')}/bus"
        return environment.get("DBUS_SESSION_BUS_ADDRESS") or usual

    def wait(self) -> None:
        """Wait until there is something to take."""
        something = self._bus.recv(1, _socket.MSG_PEEK)
        if not self._own.is_ours():
            raise _refusal(EAGAIN)  # the host has closed it meanwhile
        if not something:
            raise _refusal(ECONNREFUSED)  # the bus does not want us, or has none that could answer

    def take(self) -> int | None:
        """Read what is there: the descriptor of the socket for TPM commands, or None if that has not come yet."""
        room = _socket.CMSG_SPACE(4 * 4)
        data, more, _, _ = self._bus.recvmsg(4096, room, _socket.MSG_CMSG_CLOEXEC)
        self._received += data
        for level, kind, numbers in more:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                self._descriptors += memoryview(numbers).cast("i").tolist()
        if len(self._received) > _ANSWER_MOST:
            raise _refusal(EPROTO)
        return self._descriptor() if self._is_answered() else None

    def _descriptor(self) -> int:
        if len(self._descriptors) != 1:
            raise _refusal(EPROTO)
        return self._descriptors.pop()

    def _is_answered(self) -> bool:
        """Return whether the answer is there; OSError if it is a refusal."""
        hello, _, rest = self._received.partition(b"\r\n")
        agreed, end, data = rest.partition(b"\r\n")
        if end and not (hello.startswith(b"OK ") and agreed == b"AGREE_UNIX_FD"):
            raise _refusal(ECONNREFUSED)
        while data:
            try:
                message = Message(data)
            except IndexError:
                break
            data = data[message.size :]
            if message.type == _ERROR:
                raise _refusal(_ERRORS.get(str(message.fields.get(_ERROR_NAME)), ENODEV))
            if message.fields.get(_REPLY_SERIAL) == _CREATE:
                return True
        return False

    def close(self) -> None:
        """Close the bus, and of what was not taken."""
        if self._own.is_ours():
            self._bus.close()
        self._bus.detach()
        while self._descriptors:
            posix.close(self._descriptors.pop())
