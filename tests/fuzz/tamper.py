"""Somebody between this machine and its TPM who changes responses."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import rig
from fuzz.bare import NO_SESSIONS, BareTpm
from rig.proxy import HEADER, NAMES, _read_message

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


def name_of(request: bytes) -> str:
    return NAMES.get(int.from_bytes(request[6:10], "big"), "")


def error(code: int) -> bytes:
    """Return a whole error response, which anybody can make: TPM 2.0 Part 1, clause 18.3, errors have no sessions."""
    return NO_SESSIONS + (HEADER).to_bytes(4, "big") + code.to_bytes(4, "big")


def resized(response: bytes) -> bytes:
    """Return a response whose header tells its true size."""
    return response[:2] + len(response).to_bytes(4, "big") + response[HEADER - 4 :]


class Change:
    """One change of one response: the first one to `command` of a conversation.

    `kind`: "xor" or "set" the byte at `place`; "cut" after `place` bytes, or "cut+size" with a header that fits;
    "add" `place` bytes of `value`, or "add+size". `authentic`: no such change of an authenticated response may be
    taken for the TPM's (what stands behind the size that a header gives is not a part of a response).
    """

    def __init__(self, command: str, kind: str, place: int, value: int = 0) -> None:
        self.command = command
        self.kind = kind
        self.place = place
        self.value = value

    def __repr__(self) -> str:
        return f"{self.command}:{self.kind}:{self.place}:{self.value:#04x}"

    @property
    def must_be_noticed(self) -> bool:
        return self.command != "FlushContext" and self.kind in {"xor", "set", "cut+size", "add+size"}

    def __call__(self, response: bytes) -> bytes:
        changed = bytearray(response)
        if self.kind in {"xor", "set"} and self.place < len(changed):
            changed[self.place] = self.value ^ (changed[self.place] if self.kind == "xor" else 0)
        elif self.kind.startswith("cut"):
            changed = changed[: self.place]
        elif self.kind.startswith("add"):
            changed += bytes([self.value]) * self.place
        return resized(bytes(changed)) if self.kind.endswith("+size") else bytes(changed)


def every_change(sizes: dict[str, int]) -> Iterator[Change]:
    """Return every change of responses of these sizes: each bit, each byte, each length."""
    for command, size in sizes.items():
        for place in range(size):
            for bit in range(8):
                yield Change(command, "xor", place, 1 << bit)
            yield Change(command, "xor", place, 0xFF)
            yield Change(command, "set", place, 0)
            yield Change(command, "set", place, 0xFF)
            yield Change(command, "cut", place)
        for place in range(HEADER, size):
            yield Change(command, "cut+size", place)
        for more in (1, 2, 3, 4, 16, 100, 3900, 5000):
            for value in (0, 0x5A, 0xFF):
                yield Change(command, "add", more, value)
                yield Change(command, "add+size", more, value)


def some_of(changes: list[Change], count: int) -> list[Change]:
    """Return a sample that is the same in each run, in the order of the whole."""
    if count >= len(changes):
        return changes
    chosen = random.Random("tampering").sample(range(len(changes)), count)
    return [changes[index] for index in sorted(chosen)]


class Tamperer(rig.CountingProxy):
    """A proxy with at most one change at a time; it hangs up where a client would wait for more.

    `applied`: the change made a difference. What a forged handle left behind in the TPM is flushed by `sweep`.
    """

    def __init__(self, swtpm: rig.Swtpm) -> None:
        super().__init__(swtpm)
        self.bare = BareTpm(swtpm.port)
        self.applied = False
        self._made: list[bytes] = []
        self.change = self._watch
        self._next: Change | None = None
        self._skip = 0
        self._cut = False

    def once(self, change: Change | None, skip: int = 0) -> None:
        """Make a change, or none; `skip` responses to the same command go by before."""
        self._next, self._skip, self.applied = change, skip, False
        self.clear()

    def _watch(self, request: bytes, response: bytes) -> bytes:
        if name_of(request) in {"StartAuthSession", "Load"} and response[HEADER - 4 : HEADER] == bytes(4):
            self._made.append(response[HEADER : HEADER + 4])
        if self._next is None or name_of(request) != self._next.command:
            return response
        if self._skip:
            self._skip -= 1
            return response
        changed, self._next = self._next(response), None
        self.applied = changed != response
        self._cut = len(changed) < max(HEADER, int.from_bytes(changed[2:6], "big"))
        return changed

    def _serve_data(self, client: socket.socket) -> None:
        while request := _read_message(client):
            with self._one:
                client.sendall(self._ask(request))
                if self._cut:
                    self._cut = False
                    return

    def sweep(self) -> None:
        """Flush whatever a client believes to be elsewhere, or does not know of."""
        for handle in self._made:
            self.bare.flush(int.from_bytes(handle, "big"))
        self._made.clear()

    def loaded(self) -> int:
        """Count what is loaded: transient objects and sessions."""
        return len(self.bare.loaded())
