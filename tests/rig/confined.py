"""What a systemd unit forbids, without systemd: system calls, sockets, executable memory, capabilities, writing.

`python confined.py UNIT COMMAND...` is the second half of `confined()`: it takes away what only a process itself can.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

# by libseccomp: man 3 seccomp_init, man 3 seccomp_rule_add
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
EQUAL, GREATER, MASKED = 4, 6, 7
FAMILIES = range(64)
# what systemd 252 makes of MemoryDenyWriteExecute: system call, argument, bits that must not be there together
EXECUTABLE = (("mmap", 2, 2 | 4), ("mprotect", 2, 4), ("pkey_mprotect", 2, 4), ("shmat", 2, 0o100000))
# as ProtectSystem=strict and PrivateTmp would: "$1" and what is below can be written to, and new files of the kernel
MOUNTS = """mount --bind "$1" "$1"
findmnt -rn -o TARGET | while read -r place; do
    case "$place" in "$1"* | /proc* | /sys* | /dev*) continue;; esac
    mount -o remount,bind,ro "$place" 2>/dev/null || :  # what is not ours to change cannot be written to, either
done
mount -t proc -o hidepid=invisible,subset=pid proc /proc
shift
exec "$@"
"""


class Comparison(ctypes.Structure):
    """An argument of a system call beside a number."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class Filter:
    """System calls that end as `otherwise` says, unless a rule says else; in force from `load()`."""

    def __init__(self, otherwise: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(otherwise))

    def rule(self, action: int, name: str, *comparisons: Comparison) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # else: not of this machine
            array = (Comparison * len(comparisons))(*comparisons)
            done = self._library.seccomp_rule_add_array(self._context, action, number, len(comparisons), array)
            assert done == 0, (name, done)

    def load(self) -> None:
        assert self._library.seccomp_load(self._context) == 0


def setting(unit: Path, name: str) -> list[list[str]]:
    """The words of each line of a unit that sets `name`."""
    lines = [line.partition("=") for line in unit.read_text().splitlines()]
    return [value.split() for key, _, value in lines if key == name]


def expanded(group: str) -> set[str]:
    """The system calls of a group like @system-service."""
    told = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, timeout=60, check=True
    )
    words = [line.strip() for line in told.stdout.splitlines()[1:] if not line.strip().startswith("#")]
    return {call for word in words if word for call in (expanded(word) if word.startswith("@") else {word})}


def allowed(unit: Path) -> set[str]:
    """The system calls that a unit leaves; those of @default always are."""
    calls = expanded("@default")
    for words in setting(unit, "SystemCallFilter"):
        named = {call for word in words for call in expanded(word.removeprefix("~"))}
        calls = calls - named if words[0].startswith("~") else calls | named
    return calls | expanded("@default")


def confine(unit: Path) -> None:
    """From now on this process and its children can do no more than the unit lets them."""
    calls, arguments = Filter(REFUSE), Filter(ALLOW)
    for name in allowed(unit) | {"execve", "seccomp"}:
        calls.rule(ALLOW, name)
    for name, argument, bits in EXECUTABLE:
        arguments.rule(REFUSE, name, Comparison(argument, MASKED, bits, bits))
    [families] = setting(unit, "RestrictAddressFamilies")
    for family in set(FAMILIES) - {getattr(socket, name) for name in families}:
        arguments.rule(REFUSE, "socket", Comparison(0, EQUAL, family, 0))
    arguments.rule(REFUSE, "socket", Comparison(0, GREATER, FAMILIES[-1], 0))
    arguments.load()
    calls.load()


def confined(unit: Path, directory: Path) -> list[str | Path]:
    """The beginning of a command that runs confined, and can write below `directory` only."""
    from rig.rights import require_mounts  # this file is also run on its own

    require_mounts()
    namespace = ["/usr/bin/unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    powerless = ["/usr/bin/setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    mounts = ["/bin/sh", "-euc", MOUNTS, "sh", str(directory)]
    return [*namespace, *mounts, *powerless, sys.executable, str(Path(__file__)), str(unit)]


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
