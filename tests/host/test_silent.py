"""A TPM that does not answer: every call ends, and what ends a session, a login or a run ends soon."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

import pytest

import rig
from p11tpm.ck import CKR
from p11tpm.ending import SECONDS
from p11tpm.tpm.command import SIGN
from rig.process import wait_until

if TYPE_CHECKING:
    from pathlib import Path

LOGINS_END = ("C_Finalize", "C_Logout", "C_CloseAllSessions", "fork")  # that is, during C_Finalize
SESSIONS_END = ("C_CloseSession", "C_CloseSession of the other", "C_SessionCancel")
LEFT = "the TPM did not answer in time: the connection was dropped, and what was loaded is left in it"


class Host:
    """The host program; `said` gives what it says next, by its first word."""

    def __init__(self, hosts, owner: rig.User, *arguments: str) -> None:
        self._popen = subprocess.Popen(
            [hosts.program("silent"), owner.module, *arguments],
            env=owner.env,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self):
        assert self.line() == ["signed"]
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.kill()
        self._popen.communicate(timeout=10)

    def line(self) -> list[str]:
        return self._popen.stderr.readline().decode().removeprefix("> ").split()

    def go_on(self) -> None:
        self._popen.stdin.write(b"\n")
        self._popen.stdin.flush()

    def answers(self, count: int) -> dict[str, tuple[int, float]]:
        """Give the next answers and the seconds that they took."""
        lines = [self.line() for _ in range(count)]
        return {word: (int(rv, 16), int(ms) / 1000) for word, rv, ms in lines}


@contextlib.contextmanager
def asking(hosts, owner: rig.User, swtpm: rig.Swtpm, way: str):
    """Give a host of which a thread waits for a TPM that does not answer."""
    with Host(hosts, owner, way) as host, swtpm.frozen():
        host.go_on()
        wait_until(swtpm.is_asked, "a command for the TPM")
        host.go_on()
        yield host


@pytest.fixture
def log(tmp_path: Path, forker: rig.User) -> Path:
    """Where the programs of `forker` log to."""
    path = tmp_path / "log"
    rig.write_secret(forker.directory / "p11tpm.conf", f"log = {path}\n")
    return path


def test_a_signature_that_the_tpm_does_not_make_is_an_error(hosts, forker, swtpm, log):
    with asking(hosts, forker, swtpm, "nothing") as host:
        rv, seconds = host.answers(2)["sign"]
    assert rv == CKR.DEVICE_ERROR
    assert SIGN.seconds <= seconds < SIGN.seconds + 1
    assert f"C_Sign: CKR_DEVICE_ERROR: the TPM did not answer Sign within {SIGN.seconds} s; " in log.read_text()


@pytest.mark.parametrize("way", LOGINS_END)
def test_a_login_ends_soon_and_with_it_the_wait_of_another_thread(hosts, forker, swtpm, way):
    with asking(hosts, forker, swtpm, way) as host:
        answers = host.answers(2)
    assert (answers["ends"][0], answers["sign"][0]) == (CKR.OK, CKR.DEVICE_ERROR)
    assert max(seconds for _, seconds in answers.values()) < SECONDS


@pytest.mark.parametrize("way", SESSIONS_END)
def test_a_session_ends_at_once_while_another_thread_waits(hosts, forker, swtpm, way):
    with asking(hosts, forker, swtpm, way) as host:
        rv, seconds = host.answers(1)["ends"]
    assert rv == CKR.OK
    assert seconds < 1


@pytest.mark.parametrize("way", ["C_Finalize", "C_Logout", "C_CloseAllSessions"])
def test_a_login_ends_soon_though_nothing_can_be_flushed(hosts, forker, swtpm, log, way):
    with Host(hosts, forker, way, "alone") as host, swtpm.frozen():
        host.go_on()
        rv, seconds = host.answers(1)["ends"]
    assert rv == CKR.OK
    assert seconds < SECONDS
    assert f"error: {LEFT}" in log.read_text()
