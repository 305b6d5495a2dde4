"""Programs that end without C_Finalize, on a TPM without a resource manager."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

ORDERLY = ("return", "exit", "thread", "busy", "handler", "last", "finalized", "unloaded", "child")
ABRUPT = {"_exit": 0, "SIGTERM": -signal.SIGTERM, "SIGKILL": -signal.SIGKILL}
PROGRAM = """
import sys
from cryptoki import Cryptoki, USER
run = Cryptoki(sys.argv[1])
run.initialize()
session = run.open(run.slots()[0])
run.login(session, USER, b"123456")
key, = run.find(session, {0: (3).to_bytes(8, "little")})  # CKA_CLASS: CKO_PRIVATE_KEY
run.sign(session, key, 0x1041, bytes(32))  # CKM_ECDSA
print("signed", flush=True)
sys.stdin.read()
"""
BOUND = 2.0  # seconds: EXIT_MS of csrc/connection.h


def end_by(hosts, owner, way: str, meanwhile: AbstractContextManager[None] | None = None) -> tuple[int, float]:
    """Run the host, which has signed before it ends, in the given context.

    Return the exit status and the seconds that the end took.
    """
    command = [hosts.program("ends"), owner.module, way]
    with subprocess.Popen(command, env=owner.env, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as host:
        try:
            assert host.stderr.readline() == b"> signed\n"
            with meanwhile or nullcontext():
                start = time.monotonic()
                host.stdin.close()
                return host.wait(30), time.monotonic() - start
        finally:
            host.kill()


@pytest.mark.parametrize("way", ORDERLY)
def test_nothing_is_left(hosts, owner, swtpm, way):
    assert end_by(hosts, owner, way)[0] == 0
    assert swtpm.loaded() == []


@pytest.mark.parametrize("way", ["return", "thread", "handler", "beside"])
def test_a_tpm_that_does_not_answer_is_not_waited_for_for_long(hosts, owner, swtpm, way):
    status, seconds = end_by(hosts, owner, way, swtpm.frozen())
    assert status == 0
    assert BOUND - 0.1 < seconds < BOUND + 2


def test_a_signal_handler_ends_the_program_in_the_middle_of_a_command(hosts, owner, swtpm):
    """The thread that has the connection is the one that exits: nobody can be waited for."""
    status, seconds = end_by(hosts, owner, "interrupted", swtpm.frozen())
    assert status == 0
    assert seconds < BOUND


def test_a_resource_manager_is_not_waited_for(hosts, tabrmd, tmp_path):
    owner = rig.User(tabrmd, tmp_path)
    owner.init()
    status, seconds = end_by(hosts, owner, "return", tabrmd.swtpm.frozen())
    assert status == 0
    assert seconds < BOUND


@pytest.mark.parametrize(("way", "status"), ABRUPT.items())
def test_what_nobody_could_flush_does_not_stop_the_next_program(hosts, owner, swtpm, way, status):
    """A TPM has three slots for keys: each killed program took one, and Load needs two, one of them for the parent."""
    for _ in range(2):
        assert end_by(hosts, owner, way)[0] == status
    assert kinds(swtpm) == {"keys": 2, "sessions": 2}
    assert end_by(hosts, owner, "return")[0] == 0
    assert kinds(swtpm)["keys"] == 0


def kinds(swtpm: rig.Swtpm) -> dict[str, int]:
    """Count what is in a TPM."""
    keys = sum(int(handle, 16) >= 0x80000000 for handle in swtpm.loaded())
    return {"keys": keys, "sessions": len(swtpm.loaded()) - keys}


def test_the_log_names_the_remedy_for_what_others_left(hosts, owner, swtpm, tmp_path):
    log = tmp_path / "log"
    rig.write_secret(tmp_path / "p11tpm.conf", f"log = {log}\n")
    for name in ("one", "two", "three"):
        swtpm.tool("createprimary", "--key-context", str(tmp_path / name))
    assert kinds(swtpm) == {"keys": 3, "sessions": 0}
    done = owner.run(hosts.program("ends"), owner.module, "return")
    assert (done.returncode, done.stderr) == (2, b"> rv: 0x31\n"), "CKR_DEVICE_MEMORY"
    assert "flush what killed ones have left: tpm2_flushcontext -t\n" in log.read_text()
    assert kinds(swtpm) == {"keys": 3, "sessions": 0}


def test_a_python_program_leaves_nothing(owner, swtpm):
    """The module runs in the program's own Python, which ends before the process does."""
    assert end_of_python(owner)[0] == 0
    assert kinds(swtpm) == {"keys": 0, "sessions": 0}


def test_a_python_program_ends_without_its_tpm(owner, swtpm):
    status, seconds = end_of_python(owner, swtpm.frozen())
    assert status == 0
    assert seconds < BOUND + 2


def end_of_python(owner, meanwhile: AbstractContextManager[None] | None = None) -> tuple[int, float]:
    """Return the exit status and the seconds that the end of a Python program took; see `end_by`."""
    command = [sys.executable, "-c", PROGRAM, owner.module]
    env = {**owner.env, "PYTHONPATH": str(Path(__file__).parents[1] / "api")}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
        try:
            assert host.stdout.readline() == b"signed\n"
            with meanwhile or nullcontext():
                start = time.monotonic()
                host.stdin.close()
                return host.wait(30), time.monotonic() - start
        finally:
            host.kill()
