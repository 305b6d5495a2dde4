"""A connection that nobody uses: it ends by itself and leaves nothing behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from p11tpm.error import Error
from p11tpm.tpm import template
from p11tpm.tpm.connection import Connection, StaleError
from rig.process import wait_until
from unit.tpm_ground import Ground, timer_threads

GET_RANDOM = bytes.fromhex("80010000000c0000017b0008")


@pytest.fixture
def ground(proxy):
    with Ground(proxy, idle_seconds=0.4) as ground:
        yield ground


def test_nothing_is_left_in_the_tpm_of_who_sleeps(ground, swtpm):
    key = ground.key(template.ec("p256"))
    ground.sign(key)
    assert len(swtpm.loaded()) == 2
    assert timer_threads() == 1
    wait_until(lambda: timer_threads() == 0, "the end of the timer")
    assert swtpm.loaded() == []
    ground.proxy.clear()
    ground.sign(key)  # the login goes on
    assert ground.proxy.names == ["StartAuthSession", "Load", "Sign"]


def test_use_keeps_it_open(ground, swtpm):
    key = ground.key(template.ec("p256"))
    ground.sign(key)
    ground.proxy.clear()
    for _ in range(5):
        time.sleep(0.2)
        ground.sign(key)
    assert ground.proxy.names == ["Sign"] * 5
    assert len(swtpm.loaded()) == 2


def test_the_timer_fires_in_the_middle_of_an_operation(ground):
    """Nothing is sent on a connection that has closed itself meanwhile; the operation begins again."""
    key = ground.key(template.ec("p256"))
    ground.start_again()
    slow = iter([True])
    load = ground.tpm.loaded.load

    class Slow:
        def __getattr__(self, name):
            return getattr(loaded, name)

        def key(self, *arguments):
            handle = loaded.key(*arguments)
            if next(slow, False):
                wait_until(lambda: timer_threads() == 0, "the end of the timer")
            return handle

    loaded, ground.tpm.loaded = ground.tpm.loaded, Slow()
    ground.sign(key)
    assert load
    assert ground.proxy.names == [
        *("StartAuthSession", "Load"),
        *("FlushContext", "FlushContext"),
        *("StartAuthSession", "Load", "Sign"),
    ]


def test_a_stale_connection_says_so(swtpm):
    connection = Connection(swtpm.tcti, 0.1)
    assert not connection.open()
    assert connection.open()
    assert len(connection.transact(GET_RANDOM, 10)) == 20
    wait_until(lambda: timer_threads() == 0, "the end of the timer")
    with pytest.raises(StaleError):
        connection.transact(GET_RANDOM, 10)
    assert not connection.open(), "what was loaded is gone"
    connection.close()
    with pytest.raises(StaleError):
        connection.transact(GET_RANDOM, 10)


def test_releasing_is_quick_and_leaves_nothing(ground, swtpm):
    ground.unseal()
    start = time.monotonic()
    ground.tpm.release()
    assert time.monotonic() - start < 0.2
    assert swtpm.loaded() == []
    assert timer_threads() == 0
    ground.tpm.release()
    ground.unseal()


def test_many_openings_leak_nothing(ground):
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        ground.tpm.random(8)
        ground.tpm.release()
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 2  # the proxy's own come and go
    assert timer_threads() == 0


def test_signals_are_not_for_the_timer_thread(ground):
    ground.unseal()
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == "p11tpm-idle":
            status = (task / "status").read_text()
            blocked = int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)
            for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
                assert blocked >> (number - 1) & 1, number
            break
    else:
        pytest.fail("no timer thread")


def test_a_connection_that_never_stays_open(ground, monkeypatch):
    opened = []

    def transact(_self: Connection, _command: bytes, _seconds: float) -> bytes:
        opened.append(True)
        raise StaleError

    monkeypatch.setattr(Connection, "transact", transact)
    with pytest.raises(Error, match="closes before it can be used"):
        ground.tpm.lockout()
    assert len(opened) == 4
