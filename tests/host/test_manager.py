"""The kernel's resource manager cannot save or load what is ours: its EFAULT, of which it tells no more."""

from __future__ import annotations

import re
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from p11tpm.ck import CKR
from rig.device import Device
from rig.proxy import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import rig

NOT_SWAPPED = b"\x80\x01" + (10).to_bytes(4, "big") + b"\xff\xff\xff\xf2"  # driver.c
TRANSIENT = 0x80  # the first byte of a key's handle: Part 2, clause 7.2
ALWAYS = 10_000
TRIES = 6  # as after the TPM's own code of a context gap
SECONDS = 5  # for all of them, on a busy machine
BLAMED = r"another program has had one for very long without using it.*fuser .*tpm2_flushcontext -s"


@pytest.fixture
def device(owner: rig.User, swtpm: rig.Swtpm, driver: Path, tmp_path: Path) -> Iterator[Device]:
    """A device file by which `owner` has the TPM, named as that of the resource manager."""
    device, path = Device(swtpm), tmp_path / "tpmrm0"
    path.symlink_to(device.path)
    owner.env |= {"P11TPM_TCTI": f"device:{path}", "DRIVER": str(path), "LD_PRELOAD": str(driver)}
    (owner.directory / "p11tpm.conf").write_text(f"log = {tmp_path}/log\n")
    yield device
    device.close()


def fail(device: Device, command: str, times: int) -> None:
    """Have the next commands of this name end as the kernel ends them when it cannot save their contexts."""
    left = [times]

    def change(request: bytes, response: bytes) -> bytes:
        if not left[0] or NAMES.get(int.from_bytes(request[6:10], "big")) != command:
            return response
        left[0] -= 1
        device.swtpm.flush()  # as the kernel does
        return NOT_SWAPPED

    device.change = change


def names(device: Device) -> list[str]:
    return [command.name for command in device.commands]


@pytest.mark.parametrize("command", ["StartAuthSession", "Sign"])
def test_a_session_that_is_in_the_way_for_a_moment_is_waited_for(hosts, owner, device, command):
    fail(device, command, TRIES - 1)
    (said,) = hosts("sign", owner.module, env=owner.env)
    assert said.startswith("signature")
    assert names(device).count(command) >= TRIES


def test_what_the_kernel_has_flushed_is_not_flushed_again(hosts, owner, device):
    """The handle of a session may be another program's by now."""
    fail(device, "Sign", 1)
    hosts("sign", owner.module, env=owner.env)
    after = names(device)[names(device).index("Sign") + 1 :]
    assert after[: after.index("StartAuthSession")] == []


def test_the_end_flushes_one_object_and_leaves_the_rest_to_the_kernel(hosts, owner, device):
    """Each further command would swap what is still there in and out once more."""
    hosts("sign", owner.module, env=owner.env)
    assert names(device)[names(device).index("Sign") + 1 :] == ["FlushContext"]
    assert device.commands[-1].request[10] == TRANSIENT


def test_one_that_stays_is_named_with_the_remedy(hosts, owner, device, tmp_path):
    fail(device, "StartAuthSession", ALWAYS)
    start = time.monotonic()
    assert refused(hosts, owner) == CKR.DEVICE_MEMORY
    assert time.monotonic() - start < SECONDS
    assert names(device).count("StartAuthSession") == TRIES
    assert re.search(f"C_Login: CKR_DEVICE_MEMORY: .*{BLAMED}", (tmp_path / "log").read_text())


def test_a_pin_is_not_tried_again(hosts, owner, device, tmp_path):
    """The TPM may have counted it."""
    fail(device, "Unseal", ALWAYS)
    assert refused(hosts, owner) == CKR.DEVICE_MEMORY
    assert names(device).count("Unseal") == 1
    assert "whether the PIN was right is not known" in (tmp_path / "log").read_text()


def refused(hosts, owner: rig.User) -> int:
    """Return what a program is answered."""
    command = [hosts.program("sign"), owner.module]
    done = subprocess.run(command, env=owner.env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    return int(done.stderr.rpartition(" ")[2], 16)
