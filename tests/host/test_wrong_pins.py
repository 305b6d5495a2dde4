"""Wrong PINs never lock the TPM of the machine, whatever the disk does and however many processes there are."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from p11tpm.ck import CKR
from rig.process import wait_until
from rig.rights import require_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

RIGHT = "123456"
OK, WRONG, LOCKED = (f"login {rv:#x}" for rv in (CKR.OK, CKR.PIN_INCORRECT, CKR.PIN_LOCKED))
MOST = 5  # wrong PINs that are tried: the default of pin-tries
FAULT = Path(__file__).resolve().parents[1] / "unit" / "fault.c"


@pytest.fixture
def swtpm() -> Iterator[rig.Swtpm]:
    """A TPM that takes more wrong PINs than we let it."""
    with rig.Swtpm(max_tries=32) as tpm:
        yield tpm


@pytest.fixture(scope="session")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("fault") / "fault.so"
    subprocess.run(["gcc", "-shared", "-fPIC", FAULT, "-o", library, "-ldl"], timeout=60, check=True)
    return library


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Make a directory one that nobody can write to, not even root."""
    subprocess.run(["mount", "--bind", directory, directory], timeout=60, check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", directory], timeout=60, check=True)
        yield
    finally:
        subprocess.run(["umount", directory], timeout=60, check=True)


@contextlib.contextmanager
def full_disk(directory: Path) -> Iterator[None]:
    """Move a directory's files to a file system of their own, and leave no room there."""
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", directory], timeout=60, check=True)
    try:
        for name, content in files.items():
            rig.write_secret(directory / name, "").write_bytes(content)
        with contextlib.suppress(OSError), (directory / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)) == 4096:
                pass
        yield
    finally:
        subprocess.run(["umount", directory], timeout=60, check=True)


# -- a disk that takes no writes


PROCESSES = 12  # more than the promised five


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_writes_that_fail_do_not_change_the_answer(hosts, owner, swtpm, fault, error):
    """Nothing can be noted: so the TPM is asked before each try."""
    env = {**owner.env, "LD_PRELOAD": str(fault), "FAULT": str(error)}
    said = [hosts("logins", owner.module, f"wrong {number}", env=env)[0] for number in range(PROCESSES)]
    assert said == [WRONG] * MOST + [LOCKED] * (PROCESSES - MOST)
    assert swtpm.lockout_counter() == MOST


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_the_right_pin_after_a_wrong_one_when_nothing_can_be_written_any_more(hosts, owner, swtpm, fault, error):
    assert hosts("logins", owner.module, "wrong", env=owner.env) == [WRONG]
    env = {**owner.env, "LD_PRELOAD": str(fault), "FAULT": str(error)}
    assert hosts("logins", owner.module, RIGHT, "wrong too", RIGHT, env=env) == [OK, WRONG, OK]
    assert hosts("logins", owner.module, RIGHT, env=owner.env) == [OK]
    assert swtpm.lockout_counter() == 2


def test_a_full_file_system(hosts, owner, swtpm):
    require_mounts()
    with full_disk(owner.store):
        said = [hosts("logins", owner.module, f"wrong {number}", env=owner.env)[0] for number in range(PROCESSES)]
    assert said == [WRONG] * MOST + [LOCKED] * (PROCESSES - MOST)
    assert swtpm.lockout_counter() == MOST


def test_the_right_pin_on_a_full_file_system(hosts, owner):
    require_mounts()
    assert hosts("logins", owner.module, "wrong", env=owner.env) == [WRONG]
    with full_disk(owner.store):
        for _ in range(3):
            assert hosts("logins", owner.module, RIGHT, "wrong too", env=owner.env)[0] == OK
            assert hosts("logins", owner.module, RIGHT, env=owner.env) == [OK]


def test_a_service_that_restarts_on_a_read_only_store(hosts, owner, swtpm):
    require_mounts()
    with read_only(owner.store):
        said = [hosts("logins", owner.module, "wrong", env=owner.env)[0] for _ in range(PROCESSES)]
        assert said == [WRONG] * MOST + [LOCKED] * (PROCESSES - MOST)
        assert swtpm.lockout_counter() == MOST


def test_a_read_only_store_opens_with_the_right_pin(hosts, owner, swtpm):
    require_mounts()
    with read_only(owner.store):
        for _ in range(8):
            assert hosts("logins", owner.module, RIGHT, env=owner.env) == [OK]
    assert swtpm.lockout_counter() == 0


# -- many tokens


def test_one_wrong_pin_on_many_tokens(hosts, tmp_path):
    """Each token has its own limit, and the TPM one counter: a quarter of its tries is left to others."""
    with rig.Tabrmd(max_tries=8) as broker:
        owner = rig.User(broker, tmp_path)
        for number in range(10):
            owner.create_token(f"token {number}")
        rig.write_secret(Path(owner.env["P11TPM_CONF"]), "token = *\n")
        assert hosts("logins", owner.module, "wrong", env=owner.env) == [WRONG] * 6 + [LOCKED] * 4
        assert broker.swtpm.lockout_counter() == 6


# -- what the store says against what the TPM knows


def test_a_flipped_bit_does_not_make_the_tpm_count(owner, swtpm):
    """The store says that the token has no PIN; the object that the PIN opens says that the TPM counts."""
    with sqlite3.connect(owner.store / "p11tpm.db") as db:
        db.execute("UPDATE token SET no_pin=1")
    db.close()
    for arguments in (["-O"], ["--login", "--pin", RIGHT, "-O"]):
        command = ["pkcs11-tool", "--module", owner.module, *arguments]
        done = subprocess.run(command, env=owner.env, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, "Private Key Object" in done.stdout) == (0, "--login" in arguments)
    assert swtpm.lockout_counter() == 0


def test_another_key_in_the_place_of_the_storage_root_key(hosts, owner, swtpm, tmp_path):
    """The TPM was cleared, and somebody put a key there of which it counts wrong values."""
    swtpm.clear()
    swtpm.set_lockout(32)
    context = tmp_path / "primary"
    attributes = "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    swtpm.tool("createprimary", "-C", "o", "-G", "ecc", "-a", attributes, "-p", "theirs", "-c", str(context))
    swtpm.tool("evictcontrol", "-C", "o", "-c", str(context), "0x81000001")
    swtpm.flush()
    said = {hosts("logins", owner.module, RIGHT, env=owner.env)[0] for _ in range(PROCESSES)}
    assert said == {f"login {CKR.TOKEN_NOT_RECOGNIZED:#x}"}
    assert swtpm.lockout_counter() <= 1


def test_a_killed_login_does_not_shut_out_the_next(hosts, owner, swtpm, fault):
    """It is not known how the try ended, so the TPM is asked: it has counted nothing."""
    env = {**owner.env, "LD_PRELOAD": str(fault), "FAULT": "0"}  # kill -9 at the first write after a note
    lock = owner.store / "p11tpm.lock"
    hosts("logins", owner.module, RIGHT, env=owner.env)
    lock.write_bytes(b"!")
    assert hosts("logins", owner.module, RIGHT, env=owner.env) == [OK]
    assert lock.read_bytes() == b"."
    program = hosts.program("logins")
    killed = subprocess.run([program, owner.module, RIGHT], env=env, capture_output=True, timeout=60, check=False)
    assert killed.returncode == -9
    assert hosts("logins", owner.module, RIGHT, env=owner.env) == [OK]
    assert swtpm.lockout_counter() == 0


def test_a_tpm_that_is_not_there_has_counted_nothing(hosts, owner, swtpm):
    """A power cut counts as a try, so the TPM's own count does not justify refusing the right PIN afterwards."""
    swtpm.power_off()
    assert hosts("logins", owner.module, RIGHT, env=owner.env) == [f"login {CKR.DEVICE_REMOVED:#x}"]
    assert (owner.store / "p11tpm.lock").read_bytes() == b"."
    swtpm.restart()
    swtpm.set_lockout(3)
    while swtpm.lockout_counter() < 2:
        assert hosts("logins", owner.module, RIGHT, env=owner.env) == [OK]
        swtpm.restart()
    assert hosts("logins", owner.module, RIGHT, env=owner.env) == [OK]


def test_a_clock_that_was_set_back_locks_nobody_for_longer(hosts, owner, swtpm):
    """The TPM forgives by a clock of its own; the last wrong PIN was years ahead, as the host's clock is now."""
    wrong = [f"wrong {number}" for number in range(MOST)]
    hosts("logins", owner.module, *wrong, env=owner.env)
    with contextlib.closing(sqlite3.connect(owner.store / "p11tpm.db")) as database, database:
        database.execute("UPDATE failure SET last = last + 1000000000")
    assert hosts("logins", owner.module, RIGHT, env=owner.env) == [LOCKED]
    swtpm.set_lockout(32, recovery_seconds=1)
    wait_until(lambda: swtpm.lockout_counter() < MOST, "the TPM to forgive a wrong PIN")
    assert hosts("logins", owner.module, RIGHT, env=owner.env) == [OK]
