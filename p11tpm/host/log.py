"""The log: to syslog, to a file or to standard error, as the configuration says. Nothing here ever raises.

A log line never holds data, PINs, authorisation values or attribute values: its callers see to that.
"""

from __future__ import annotations

import posix
from time import gmtime, time

from p11tpm._native import lib
from p11tpm.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from p11tpm.host.config import Config

_ERROR, _NOTICE, _DEBUG = 3, 5, 7  # severities of syslog(3)
_NAMES = {_ERROR: "error", _NOTICE: "notice", _DEBUG: "debug"}
_SYSLOG = "/dev/log"
_LONGEST = 1000  # characters of a line


def _syslog(severity: int, line: str) -> None:
    lib.send_to_syslog(_SYSLOG.encode(), severity, _bytes(line))


def _stamped(severity: int, line: str) -> bytes:
    now = gmtime(time())
    date = f"{now.tm_year}-{now.tm_mon:02}-{now.tm_mday:02}T{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}Z"
    return _bytes(f"{date} p11tpm[{posix.getpid()}] {_NAMES[severity]}: {line}\n")


def _stderr(severity: int, line: str) -> None:
    posix.write(2, _stamped(severity, line))


def _file(path: str) -> Callable[[int, str], None]:
    def write(severity: int, line: str) -> None:
        descriptor = files.open_log(path)
        try:
            posix.write(descriptor, _stamped(severity, line))
        finally:
            posix.close(descriptor)

    return write


_WRITERS: dict[str, Callable[[int, str], None] | None] = {"syslog": _syslog, "stderr": _stderr, "off": None}

_write: Callable[[int, str], None] | None = _syslog
_level = _ERROR


def configure(config: Config) -> None:
    """Log as a configuration says; before that, errors go to syslog."""
    global _write, _level  # noqa: PLW0603 - a process has one log
    _write = _WRITERS[config.log] if config.log in _WRITERS else _file(config.log)
    _level = _DEBUG if config.log_level == "debug" else _ERROR


def debugging() -> bool:
    """Whether debug() does anything, for callers whose text costs something."""
    return _write is not None and _level == _DEBUG


def debug(text: str) -> None:
    """Log what a caller did wrong, or what is going on."""
    if _level == _DEBUG:
        _log(_DEBUG, lambda: text)


def error(text: str) -> None:
    """Log what is wrong with this package, the TPM or the store."""
    _log(_ERROR, lambda: text)


def notice(text: Callable[[], str]) -> None:
    """Log, whatever the level is, what the configuration asks for: the uses of keys. `text` may fail as well."""
    _log(_NOTICE, text)


def _log(severity: int, text: Callable[[], str]) -> None:
    if _write is None:
        return
    try:
        for line in text().splitlines():
            _write(severity, _printable(line)[:_LONGEST])
    except Exception:  # noqa: BLE001, S110 - a log that cannot be written must not change what a call answers
        pass


def _printable(line: str) -> str:
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
