"""A TPM that does not answer: every call ends, and what ends a session, a login or a run ends soon."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from p11tpm.ck import CKR
from p11tpm.host.ending import SECONDS
from p11tpm.tpm.command import SIGN
from rig.device import Device
from rig.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    @property
    def keepers(self) -> list[Path]:
        """The processes that it started; proc(5)."""
        children = Path(f"/proc/{self._popen.pid}/task").glob("*/children")
        return [Path("/proc", pid) for path in children for pid in path.read_text().split()]

    def kill(self) -> None:
        self._popen.send_signal(signal.SIGTERM)

    def code(self) -> int:
        """Wait for its end."""
        return self._popen.wait(SECONDS)

    def line(self) -> list[str]:
        return self._popen.stderr.readline().decode().removeprefix("> ").split()

    def go_on(self) -> None:
        self._popen.stdin.write(b"\n")
        self._popen.stdin.flush()

    def answers(self, count: int) -> dict[str, tuple[int, float]]:
        """Return the next answers and the seconds that they took."""
        lines = [self.line() for _ in range(count)]
        return {word: (int(rv, 16), int(ms) / 1000) for word, rv, ms in lines}


@contextlib.contextmanager
def asking(hosts, owner: rig.User, swtpm: rig.Swtpm, way: str):
    """Return a host of which a thread waits for a TPM that does not answer."""
    with Host(hosts, owner, way) as host, swtpm.frozen():
        host.go_on()
        wait_until(swtpm.is_asked, "a command for the TPM")
        host.go_on()
        yield host


@pytest.fixture
def device(owner: rig.User, swtpm: rig.Swtpm, driver: Path) -> Iterator[Device]:
    """A device file by which `owner` has the TPM, and which waits in the kernel as Linux's does."""
    device = Device(swtpm)
    owner.env |= {"P11TPM_TCTI": device.tcti, "DRIVER": device.path, "LD_PRELOAD": str(driver)}
    yield device
    device.close()


@pytest.fixture
def log(tmp_path: Path, owner: rig.User) -> Path:
    """Where the programs of `owner` log to."""
    path = tmp_path / "log"
    rig.write_secret(owner.directory / "p11tpm.conf", f"log = {path}\n")
    return path


def test_a_signature_that_the_tpm_does_not_make_is_an_error(hosts, owner, swtpm, log):
    with asking(hosts, owner, swtpm, "nothing") as host:
        rv, seconds = host.answers(2)["sign"]
    assert rv == CKR.DEVICE_ERROR
    assert SIGN.seconds <= seconds < SIGN.seconds + 1
    assert f"C_Sign: CKR_DEVICE_ERROR: the TPM did not answer Sign within {SIGN.seconds} s; " in log.read_text()


@pytest.mark.parametrize("way", LOGINS_END)
def test_a_login_ends_soon_and_with_it_the_wait_of_another_thread(hosts, owner, swtpm, way):
    with asking(hosts, owner, swtpm, way) as host:
        answers = host.answers(2)
    assert (answers["ends"][0], answers["sign"][0]) == (CKR.OK, CKR.DEVICE_ERROR)
    assert max(seconds for _, seconds in answers.values()) < SECONDS


@pytest.mark.parametrize("way", SESSIONS_END)
def test_a_session_ends_at_once_while_another_thread_waits(hosts, owner, swtpm, way):
    with asking(hosts, owner, swtpm, way) as host:
        rv, seconds = host.answers(1)["ends"]
    assert rv == CKR.OK
    assert seconds < 1


@pytest.mark.parametrize("way", ["C_Finalize", "C_Logout", "C_CloseAllSessions"])
def test_a_login_ends_soon_though_nothing_can_be_flushed(hosts, owner, swtpm, log, way):
    with Host(hosts, owner, way, "alone") as host, swtpm.frozen():
        host.go_on()
        rv, seconds = host.answers(1)["ends"]
    assert rv == CKR.OK
    assert seconds < SECONDS
    assert f"error: {LEFT}" in log.read_text()


def test_a_device_that_does_not_answer_keeps_neither_the_call_nor_the_program(hosts, owner, swtpm, device):
    with asking(hosts, owner, swtpm, "C_Finalize") as host:
        answers = host.answers(2)
        assert host.code() == 0
    assert (answers["ends"][0], answers["sign"][0]) == (CKR.OK, CKR.DEVICE_ERROR)
    assert max(seconds for _, seconds in answers.values()) < SECONDS
    assert device.commands


def test_a_program_that_waits_for_a_device_can_be_killed(hosts, owner, swtpm, device):
    """Another process has the device open, and nothing else that was open, until the driver is done."""
    with asking(hosts, owner, swtpm, "nothing") as host:
        wait_until(lambda: host.keepers, "a keeper of the device")
        (keeper,) = host.keepers
        wait_until(lambda: len(list((keeper / "fd").iterdir())) == 1, "the end of what is the host's")
        assert [str(link.readlink()) for link in (keeper / "fd").iterdir()] == [device.path]
        host.kill()
        assert host.code() == -signal.SIGTERM
        assert keeper.exists()
    wait_until(lambda: not keeper.exists(), "the end of the keeper")


LATER = """
import sys
from p11tpm.error import Error
from p11tpm.tpm import Tpm, command
command.GET_CAPABILITY.seconds = 0.3
tpm = Tpm(sys.argv[1])
for line in sys.stdin:
    try:
        print(tpm.lockout().max_tries, flush=True)
    except Error as error:
        print(hex(error.rv), error.why, flush=True)
"""


def test_a_device_is_asked_again_when_it_has_answered(owner, swtpm, device):
    command = [sys.executable, "-c", LATER, device.tcti]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=owner.env, stdin=pipe, stdout=pipe, text=True) as popen:

        def said() -> str:
            popen.stdin.write("\n")
            popen.stdin.flush()
            return popen.stdout.readline()

        assert said() == "3\n"
        with swtpm.frozen():
            assert "0x30 the TPM did not answer GetCapability within 0.3 s" in said()
            assert "0x30 the TPM (device:" in said(), "it is not asked meanwhile"
        wait_until(lambda: said() == "3\n", "the end of the earlier command")
        popen.stdin.close()
        popen.wait(10)
