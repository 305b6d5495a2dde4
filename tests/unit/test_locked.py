"""Secrets in memory of the C side."""

from __future__ import annotations

import hmac
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p11tpm.host.locked import Locked
from rig.deadline import exit_code, fork

LONGEST = 256  # bytes
KEYS = st.binary(max_size=LONGEST)


@given(KEYS, st.binary(max_size=1000))
def test_macs(key, data):
    assert Locked(key).mac(data) == hmac.digest(key, data, "sha256")


def test_macs_under_keys_around_the_length_of_a_block():
    for size in (0, 1, 63, 64, 65, LONGEST):
        key = os.urandom(size)
        assert Locked(key).mac(b"data") == hmac.digest(key, b"data", "sha256")


def test_joined_and_set_anew():
    first, second = Locked(b"first"), Locked(b"a longer one")
    second.set(first, b"rest")
    assert (bytes(second), len(second)) == (b"firstrest", 9)
    second.set(b"")
    assert not second


def test_wiped():
    locked = Locked(b"secret")
    assert locked
    locked.wipe()
    assert (bool(locked), bytes(locked)) == (False, b"")


def test_too_long():
    with pytest.raises(ValueError, match="too long"):
        Locked(bytes(LONGEST + 1))
    with pytest.raises(ValueError, match="too long"):
        Locked(b"secret").set(Locked(bytes(LONGEST)), b"1")


def test_many_have_places_of_their_own():
    """More than are in one area; a place is free again when nobody has it."""
    for _ in range(3):
        many = [Locked(number.to_bytes(2, "big")) for number in range(500)]
        assert [bytes(one) for one in many] == [number.to_bytes(2, "big") for number in range(500)]


def test_no_more_than_there_are_places():
    many = []
    with pytest.raises(MemoryError):
        many.extend(Locked(b"1") for _ in range(100_000))
    del many[:]
    assert bytes(Locked(b"1")) == b"1"


def kept_apart() -> list[bytes]:
    """The memory of this process that is not dumped, and empty in a child: VmFlags in proc(5)."""
    found = []
    start = end = 0
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if range_ := re.match(r"(\w+)-(\w+) ", line):
                start, end = (int(address, 16) for address in range_.groups())
            elif line.startswith("VmFlags:") and {"dd", "wf"} <= set(line.split()):
                memory.seek(start)
                found.append(memory.read(end - start))
    return found


def test_memory_is_not_dumped_and_wiped_in_a_child():
    kept = Locked(b"the secret")
    assert any(b"the secret" in memory for memory in kept_apart())
    assert exit_code(fork(lambda: bool(kept) or any(bytes(kept)))) == 0
    assert bytes(kept) == b"the secret"
