"""Settings: where the store is, how the TPM is reached, and how PINs and the log are dealt with.

/etc/p11tpm.conf is read first, then p11tpm.conf in the user's configuration directory, which overrides it; or only the
file that P11TPM_CONF names. A directory of the user that the process may not search, as under ProtectHome= of a unit,
has no such file. P11TPM_STORE and P11TPM_TCTI override single settings. A program that runs with more rights than its
caller (setuid) reads nothing from its environment.
"""

from __future__ import annotations

import posix

from p11tpm._native import lib
from p11tpm.ck import CKM, CKR
from p11tpm.error import Error
from p11tpm.host import files, system
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable, Mapping
    from typing import Any
else:
    pwd = Late("pwd")

SYSTEM = "/etc/p11tpm.conf"
PIN_LONGEST = 128  # bytes
_LONGEST = 65536  # bytes of a configuration file
_BOM, _OF_UTF_16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_WITH_CONTROL = "it has a control character: write text, each setting on a line of its own that ends in a line feed"
_CREDENTIAL = "p11tpm.pin"
_ALL = "*"


class _Unusable(Exception):  # noqa: N818 - becomes an Error with the name of the file and the line's number
    """A line that cannot be used; says what to write instead, and nothing of what it says."""


class Choice:
    """A choice of mechanisms: these types only, or all but these."""

    __slots__ = ("denied", "types")

    def __init__(self, types: frozenset[int], *, denied: bool) -> None:
        self.types = types
        self.denied = denied

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and (self.types, self.denied) == (other.types, other.denied)

    def __hash__(self) -> int:
        return hash((self.types, self.denied))

    def __contains__(self, type_: object) -> bool:
        return (type_ in self.types) != self.denied


class Config:
    """The settings of one run; each has a default.

    `store` is the directory of the store, an absolute path. `tcti` names the TPM as tpm2-tss does. `token` is the label
    of the token that programs are shown, None for the first one, ``*`` for all. `bus` is ``trusted`` if nobody can
    listen on the way to the TPM, else ``untrusted``. `pin_file` is the absolute path of the file with the token's PIN,
    empty if there is none, and `pin_credential` says that systemd made it. `pin_tries` is the number of wrong PINs
    before this package stops asking the TPM, `pin_min` the length of a new PIN in bytes. `pcr_signature` is the
    absolute path of the file with signed values of PCRs, empty for the one of systemd. `mechanisms` is None for all
    of them, or which ones: `Choice`. `log` is ``syslog``, ``stderr``, ``off`` or an absolute path, `log_level` is
    ``error`` or ``debug``, and `log_uses` says whether each use of a key is logged as well.
    """

    __slots__ = (
        *(
            "bus",
            "log",
            "log_level",
            "log_uses",
            "mechanisms",
            "pcr_signature",
            "pin_credential",
            "pin_file",
            "pin_min",
            "pin_tries",
        ),
        *("store", "tcti", "token"),
    )

    def __init__(self) -> None:
        self.store = ""
        self.tcti = "device:/dev/tpmrm0"
        self.bus = "untrusted"
        self.token: str | None = None
        self.pin_file = ""
        self.pin_credential = False
        self.pin_tries = 5
        self.pin_min = 4
        self.pcr_signature = ""
        self.mechanisms: Choice | None = None
        self.log = "syslog"
        self.log_level = "error"
        self.log_uses = False

    @classmethod
    def load(cls) -> Config:
        """Read the settings of this process.

        Raises CKR_GENERAL_ERROR with file and line for what cannot be used, for settings that contradict each other,
        and for a file that others may write to.
        """
        environment: Mapping[str, str] = {} if _is_setuid() else system.environment()
        config = cls()
        named = _absolute(environment, "P11TPM_CONF")
        if named:
            config.read(named, required=True)
        else:
            config.read(SYSTEM)
            own = _base(environment, "XDG_CONFIG_HOME", ".config")
            if own and not files.is_hidden(path := f"{own}/p11tpm.conf"):
                config.read(path)
        config.tcti = _variable(environment, "P11TPM_TCTI") or config.tcti
        config.store = _absolute(environment, "P11TPM_STORE") or config.store or _default_store(environment)
        config.find_credential(environment.get("CREDENTIALS_DIRECTORY", ""))
        if config.pin_file and config.token == _ALL:
            why = f"'pin-file' ({config.pin_file}) is the PIN of one token, 'token = *' shows all: name one as 'token'"
            raise Error(CKR.GENERAL_ERROR, why)
        if config.log_uses and config.log == "off":
            raise Error(CKR.GENERAL_ERROR, "'log-uses = yes' and 'log = off' contradict each other: name a log")
        return config

    def find_credential(self, directory: str) -> None:
        """Use the PIN file in the directory that systemd made for this service, if it is there (systemd.exec(5))."""
        path = f"{directory}/{_CREDENTIAL}"
        if directory.startswith("/") and system.exists(path):
            self.pin_file, self.pin_credential = path, True

    def read(self, path: str, *, required: bool = False) -> None:
        """Read the settings of one file, which may be missing unless it is `required`.

        An unusable line is named by its number and never shown: the file may be another one than was meant,
        such as the one with the PIN.
        """
        try:
            content = files.read_checked(path, _LONGEST)
        except OSError as error:
            raise Error(CKR.GENERAL_ERROR, f"{path}: {error.strerror}") from None
        if content is None:
            if required:
                raise Error(CKR.GENERAL_ERROR, f"{path} does not exist")
            return
        if content.startswith(_OF_UTF_16):
            raise Error(CKR.GENERAL_ERROR, f"{path}: it is UTF-16: write it as UTF-8")
        seen: set[str] = set()
        lines = content.removeprefix(_BOM).replace(b"\r\n", b"\n").split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                self._take(line, seen)
            except _Unusable as error:
                raise Error(CKR.GENERAL_ERROR, f"{path}:{number}: {error}") from None

    def _take(self, line: bytes, seen: set[str]) -> None:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise _Unusable("it is not UTF-8 text: write it as UTF-8") from None
        if _has_control(text.replace("\t", " ")):
            raise _Unusable(_WITH_CONTROL)
        text = text.strip()
        if not text or text.startswith("#"):
            return
        key, equals, value = text.partition("=")
        key, value = key.strip(), value.partition(" #")[0].strip()
        if key not in _SETTINGS:
            raise _Unusable(f"this setting is not known; the settings are {', '.join(_SETTINGS)}")
        if not equals or not value:
            raise _Unusable(f"write '{key} = value'")
        if "\t" in value and key != "mechanisms":
            raise _Unusable(_WITH_CONTROL)
        if key in seen:
            raise _Unusable(f"'{key}' is set twice in this file")
        seen.add(key)
        setattr(self, key.replace("-", "_").replace("pin_min_length", "pin_min"), _SETTINGS[key](value))


def _any(value: str) -> str:
    return value


def _path(value: str) -> str:
    if value.startswith("~/"):
        home = _home({} if _is_setuid() else system.environment())
        if home is None:
            raise _Unusable("there is no home directory; write an absolute path")
        return f"{home}/{value[2:]}"
    if not value.startswith("/"):
        raise _Unusable("write an absolute path, or one that starts with ~/")
    return system.normpath(value)


def _path_or_none(value: str) -> str:
    return "" if value == "none" else _path(value)


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) < 10 and least <= int(value) <= most):
            raise _Unusable(f"write a number from {least} to {most}")
        return int(value)

    return read


def _word(*words: str, path: bool = False) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value in words or (path and value.startswith("/")):
            return value
        raise _Unusable(f"write {', '.join(words)}{' or an absolute path' if path else ''}")

    return read


def _truth(value: str) -> bool:
    return _word("no", "yes")(value) == "yes"


def _mechanisms(value: str) -> Choice | None:
    if value == "*":
        return None
    words = value.replace(",", " ").split()
    denied = {word[0] in "-!" for word in words}
    if not words:
        raise _Unusable("write * or the names of mechanisms, as CKM_ECDSA")
    if len(denied) > 1:
        raise _Unusable("write the mechanisms that are wanted, or each that is not with a - before it; not both")
    names = [word.lstrip("-!") for word in words]
    known = {f"CKM_{name}": type_ for name, type_ in vars(CKM).items() if not name.startswith("_")}
    for number, name in enumerate(names, 1):
        if name not in known:
            raise _Unusable(f"name {number} is not that of a mechanism; they are listed in README.md, as CKM_ECDSA")
    return Choice(frozenset(known[name] for name in names), denied=denied == {True})


_SETTINGS: dict[str, Callable[[str], Any]] = {
    "store": _path,
    "tcti": _any,
    "bus": _word("untrusted", "trusted"),
    "token": _any,
    "pin-file": _path_or_none,
    "pcr-signature": _path,
    "mechanisms": _mechanisms,
    "pin-tries": _number(1, 10),
    "pin-min-length": _number(4, PIN_LONGEST),
    "log": _word("syslog", "stderr", "off", path=True),
    "log-level": _word("error", "debug"),
    "log-uses": _truth,
}


def _is_setuid() -> bool:
    """Whether the kernel gave the program more rights than its caller has (AT_SECURE, as secure_getenv(3) asks)."""
    return bool(lib.secure())


def _has_control(text: str) -> bool:
    """Return whether a text has characters that end or hide a line: controls, separators of lines and paragraphs."""
    return any(character < " " or "\x7f" <= character <= "\x9f" or character in "\u2028\u2029" for character in text)


def _variable(environment: Mapping[str, str], name: str) -> str:
    """Return a variable, empty if it is not set; its value is never shown."""
    value = environment.get(name, "")
    if _has_control(value):
        raise Error(CKR.GENERAL_ERROR, f"{name} has a control character: set it to text")
    return value


def _absolute(environment: Mapping[str, str], name: str) -> str:
    value = _variable(environment, name)
    if value and not value.startswith("/"):
        raise Error(CKR.GENERAL_ERROR, f"{name} is not an absolute path")
    return value and system.normpath(value)


def _is_ours(directory: str) -> bool:
    try:
        return directory.startswith("/") and posix.stat(directory).st_uid == posix.geteuid()
    except OSError:
        return False


def _home(environment: Mapping[str, str]) -> str | None:
    """Return the home directory: HOME, or the password database's where that is another user's, as under sudo."""
    home = environment.get("HOME", "")
    if _is_ours(home):
        return home
    try:
        home = pwd.getpwuid(posix.geteuid()).pw_dir
    except KeyError:
        return None
    return home if home.startswith("/") else None


def _base(environment: Mapping[str, str], name: str, below_home: str) -> str | None:
    """Return a directory of the XDG Base Directory Specification; one that is another user's is not meant for us."""
    named = environment.get(name, "")
    if named.startswith("/") and (_is_ours(named) or not system.exists(named)):
        return named
    home = _home(environment)
    return f"{home}/{below_home}" if home else None


def state_directory() -> str:
    """Return this user's directory for other files than settings and keys; CKR_GENERAL_ERROR without a home."""
    state = _base(system.environment(), "XDG_STATE_HOME", ".local/state")
    if state is None:
        raise Error(CKR.GENERAL_ERROR, f"uid {posix.geteuid()} has no home directory")
    return f"{state}/p11tpm"


def _default_store(environment: Mapping[str, str]) -> str:
    if posix.geteuid() == 0:
        return "/var/lib/p11tpm"
    data = _base(environment, "XDG_DATA_HOME", ".local/share")
    if data is None:
        raise Error(CKR.GENERAL_ERROR, f"uid {posix.geteuid()} has no home directory: set 'store' in {SYSTEM}")
    return f"{data}/p11tpm"
