"""The lock under which PINs are tried, and what it notes."""

import fcntl
import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.host.trylock import NAME, TryLock, abandon_locks
from rig.deadline import exit_code, fork, join
from rig.process import wait_until


def test_one_try_at_a_time(tmp_path):
    with TryLock(str(tmp_path), 1):
        with pytest.raises(Error, match="for too long") as error, TryLock(str(tmp_path), 0.02):
            pass
        assert error.value.rv == CKR.FUNCTION_FAILED
    with TryLock(str(tmp_path), 0.02):
        pass


def test_a_lock_ends_with_the_process_whatever_its_children_do(tmp_path):
    """The process is killed while it has the lock, and a child that was forked meanwhile lives on."""
    told, tell = os.pipe()

    def live_on() -> None:
        abandon_locks()
        os.write(tell, b"%d\n" % os.getpid())
        time.sleep(60)

    def keep_the_lock() -> None:
        with TryLock(str(tmp_path), 1):
            fork(live_on)
            time.sleep(60)

    parent = fork(keep_the_lock)
    child = int(os.read(told, 100))
    try:
        with pytest.raises(Error), TryLock(str(tmp_path), 0.02):
            pass
        os.kill(parent, signal.SIGKILL)
        exit_code(parent)
        with TryLock(str(tmp_path), 1):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(told)
        os.close(tell)


def note(directory, *, end):
    with TryLock(str(directory), 1) as lock:
        noted = lock.begin()
        if end:
            lock.end()
    return noted


def test_a_try_whose_end_was_not_noted_is_known_to_the_next_one(tmp_path):
    assert note(tmp_path, end=True)
    assert note(tmp_path, end=False)
    assert not note(tmp_path, end=False)
    assert not note(tmp_path, end=True)
    assert note(tmp_path, end=True)


def test_a_killed_process_leaves_its_note(tmp_path):
    def be_killed() -> None:
        with TryLock(str(tmp_path), 1) as lock:
            lock.begin()
            os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(fork(be_killed)) == -signal.SIGKILL
    assert not note(tmp_path, end=True)


@pytest.mark.parametrize("mask", [0, 0o777])
def test_only_the_owner_can_open_the_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        assert note(tmp_path, end=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


def test_where_no_file_can_be_made_nothing_is_noted_and_there_is_a_lock(tmp_path):
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    assert not note(tmp_path, end=True)
    assert not (tmp_path / "elsewhere").exists()
    with TryLock(str(tmp_path), 1), pytest.raises(Error) as error, TryLock(str(tmp_path), 0.02):
        pass
    assert error.value.rv == CKR.FUNCTION_FAILED


def opened(path):
    return sum(entry.resolve() == path for entry in Path("/proc/self/fd").iterdir())


def test_a_file_that_was_deleted_while_somebody_waited_for_it_locks_nobody(tmp_path):
    """The one that waited locks the new file, as the next one does."""
    with TryLock(str(tmp_path), 1):
        waiting = threading.Thread(target=lambda: note(tmp_path, end=False), daemon=True)
        waiting.start()
        wait_until(lambda: opened(tmp_path / NAME) == 2, "the thread that waits for the lock")
        (tmp_path / NAME).unlink()
    join(waiting)
    assert (tmp_path / NAME).read_bytes() == b"!"


def test_a_file_that_is_replaced_again_and_again_is_waited_for_no_longer(tmp_path, monkeypatch):
    """There is one deadline for the whole wait, however often it is about another file."""
    end = time.monotonic() + 3
    monkeypatch.setattr(TryLock, "_is_in_place", lambda _lock: time.monotonic() > end)
    with pytest.raises(Error, match="for too long"), TryLock(str(tmp_path), 0.1):
        pass
    assert time.monotonic() < end
    assert opened(tmp_path / NAME) == 0


def test_a_special_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(Error, match="not a regular file"), TryLock(str(tmp_path), 1):
        pass


def test_a_directory_that_anybody_can_lock_does_not_keep_anybody_out(tmp_path, monkeypatch):
    """As another user's lock on a directory that a unit's StateDirectory= made, where no file can be made."""
    tmp_path.chmod(0o755)
    monkeypatch.setattr("p11tpm.host.trylock._PATIENCE_WITH_STRANGERS", 0.02)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        assert note(tmp_path, end=True), "a file that only we can lock is there"
        (tmp_path / NAME).unlink()
        (tmp_path / NAME).symlink_to("nowhere")
        assert not note(tmp_path, end=True), "the TPM is asked for its count first"
        tmp_path.chmod(0o750)
        with pytest.raises(Error, match="for too long"), TryLock(str(tmp_path), 0.02):
            pass
    finally:
        os.close(descriptor)
