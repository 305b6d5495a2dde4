"""Descriptors whose numbers the host gives to files of its own, at any moment."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.host import descriptor
from p11tpm.host.descriptor import Descriptor
from p11tpm.host.trylock import NAME, TryLock, abandon_locks
from p11tpm.store import Record, Store, TokenRow
from p11tpm.tpm.tabrmd import Broker
from rig.deadline import join
from rig.process import wait_until

CONTENT = b"what the host has written into its own file"


class Own:
    """A file of the host's, to which it gives the numbers of descriptors that it closes."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(CONTENT)
        self._path = path
        self._numbers: list[int] = []

    def take(self, *numbers: int) -> None:
        """Close what is there and open the file under the number."""
        assert numbers
        for number in numbers:
            file = os.open(self._path, os.O_RDWR)
            os.dup2(file, number)
            os.close(file)
            self._numbers.append(number)

    def assert_kept(self) -> None:
        """Check that the numbers are still the file's, and nothing was written to it."""
        for number in self._numbers:
            assert os.path.sameopenfile(number, self._numbers[0])
            assert os.lseek(number, 0, os.SEEK_CUR) == 0
        assert os.fstat(self._numbers[0]).st_ino == self._path.stat().st_ino
        assert self._path.read_bytes() == CONTENT

    def close(self) -> None:
        for number in self._numbers:
            os.close(number)


@pytest.fixture
def own(tmp_path):
    own = Own(tmp_path / "own")
    yield own
    own.assert_kept()
    own.close()


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def numbers_of(path: Path) -> list[int]:
    """Return the descriptors of a file, in order."""
    found = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return sorted(int(entry.name) for entry in found if entry.exists() and entry.resolve() == path)


def a_token() -> TokenRow:
    return TokenRow(uuid=os.urandom(16))


def a_record(token: int) -> Record:
    return Record(token, os.urandom(16), {3: b"label"})


def ids_in_another_process(directory: str) -> list[int]:
    code = "import sys; from p11tpm.store import Store; print(Store(sys.argv[1]).find(1, {}, {}))"
    done = subprocess.run(
        [sys.executable, "-c", code, directory], capture_output=True, text=True, timeout=60, check=True
    )
    return [int(word) for word in done.stdout.strip("[]\n").split(",") if word]


# -- the store


def test_a_store_is_opened_anew(store, tmp_path, own):
    file = tmp_path / "store" / "p11tpm.db"
    token = store.add_token(a_token())
    for _ in range(3):
        before = store.version()
        own.take(*numbers_of(file))
        assert store.version() != before, "what others wrote meanwhile is looked for"
        (made,) = store.add([a_record(token)])
        own.take(*numbers_of(file))
        assert made in store.find(token, {}, {})
        own.assert_kept()
    own.take(*numbers_of(file))
    store.close()


def test_each_store_knows_its_own_descriptor(store, tmp_path, own):
    file = tmp_path / "store" / "p11tpm.db"
    token = store.add_token(a_token())
    (first,) = numbers_of(file)
    other = Store(str(tmp_path / "store"))
    assert len(other.tokens()) == 1
    (second,) = set(numbers_of(file)) - {first}
    own.take(second)
    store.add([a_record(token)])
    assert numbers_of(file) == [first]
    assert len(other.find(token, {}, {})) == 1
    assert len(numbers_of(file)) == 2
    own.take(first)
    assert len(store.find(token, {}, {})) == 1
    store.close()
    other.close()
    assert numbers_of(file) == []


def test_a_file_that_is_closed_while_it_is_written_to(store, tmp_path, own):
    """SQLite has locks of it, as it thinks: this process does not use it any more; others do."""
    file, journal = tmp_path / "store" / "p11tpm.db", tmp_path / "store" / "p11tpm.db-journal"
    token = store.add_token(a_token())
    (made,) = store.add([a_record(token)])

    def work(db):
        db.execute("DELETE FROM object")
        own.take(*numbers_of(file), *numbers_of(journal))

    with pytest.raises(Error, match="has closed the store") as error:
        store.database.write(work)
    assert error.value.rv == CKR.DEVICE_ERROR
    own.assert_kept()
    for again in (store, Store(str(tmp_path / "store"))):
        for use in (lambda: store.add([a_record(token)]), again.tokens, again.version):
            with pytest.raises(Error, match="start the program again") as error:
                use()
            assert error.value.rv == CKR.DEVICE_ERROR
        again.close()
    assert ids_in_another_process(str(tmp_path / "store")) == [made]


def test_a_number_below_the_expected_one(tmp_path):
    path = tmp_path / "file"
    path.touch()
    status = path.stat()
    file = (status.st_dev, status.st_ino)
    expected = descriptor.next_number(str(tmp_path))
    assert descriptor.find(file, expected) is None
    number = os.open(path, os.O_RDONLY)
    for near in (number, max(3, number - 1), number + 1, number + 30):
        found = descriptor.find(file, near)
        assert found is not None
        assert found.number == number
    os.close(number)


# -- the lock


def test_a_lock_that_the_host_has_closed_notes_nothing_and_unlocks_nothing(tmp_path, own):
    with TryLock(str(tmp_path), 1) as lock:
        assert lock.begin()
        own.take(*numbers_of(tmp_path / NAME))
        lock.end()
    with TryLock(str(tmp_path), 1) as lock:
        own.take(*numbers_of(tmp_path / NAME))
        assert not lock.begin(), "the TPM is asked for its count"
        abandon_locks()
    assert (tmp_path / NAME).read_bytes() == b"!"


def test_a_lock_whose_descriptor_is_closed_while_it_is_waited_for(tmp_path, own):
    noted = []

    def note():
        with TryLock(str(tmp_path), 60) as lock:
            noted.append(lock.begin())
            lock.end()

    with TryLock(str(tmp_path), 1):
        (held,) = numbers_of(tmp_path / NAME)
        waiting = threading.Thread(target=note, daemon=True)
        waiting.start()
        wait_until(lambda: len(numbers_of(tmp_path / NAME)) == 2, "the thread that waits for the lock")
        own.take(*(number for number in numbers_of(tmp_path / NAME) if number != held))
        wait_until(lambda: len(numbers_of(tmp_path / NAME)) == 2, "the same on a descriptor of its own")
    join(waiting)
    assert noted == [True]


# -- the bus


def test_what_comes_for_the_host_is_not_taken_for_the_answer_of_the_bus():
    broker = Broker("tabrmd:bus_type=session")
    ask = broker.wait  # some seconds at most
    number = broker._bus.fileno()  # noqa: SLF001
    hosts, peer = socket.socketpair()
    peer.sendall(CONTENT)
    os.dup2(hosts.fileno(), number)
    with pytest.raises(BlockingIOError):
        ask()
    broker.close()
    assert os.path.sameopenfile(number, hosts.fileno())
    assert hosts.recv(100) == CONTENT
    for one in (number, hosts.detach(), peer.detach()):
        os.close(one)


def test_one_that_was_closed_is_not_closed_again(tmp_path, own):
    path = tmp_path / "file"
    path.touch()
    ours = Descriptor(os.open(path, os.O_RDONLY))
    assert ours.is_ours()
    own.take(ours.number)
    assert not ours.is_ours()
    ours.close()
    closed = Descriptor(os.open(path, os.O_RDONLY))
    closed.close()
    assert not closed.is_ours()
    closed.close()
