"""Hosts that close all descriptors, the module's too, and open others under the same numbers: they keep those."""

from __future__ import annotations

import contextlib
import subprocess

import pytest

from rig.device import Device

POINTS = (
    *("initialized", "logged in", "signed", "signing", "finding", "updating", "created", "forking", "logging out"),
    *("logged out", "finalizing", "finalized", "exiting", "every"),
)


@pytest.fixture
def device(swtpm):
    with contextlib.closing(Device(swtpm)) as device:
        yield device


def library_directory() -> str:
    """Where the libraries of tpm2-tss are."""
    command = ["pkg-config", "--variable=libdir", "tss2-tctildr"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.mark.parametrize("point", POINTS)
def test_what_the_host_opens_under_our_numbers_is_its_own(hosts, user, tmp_path, point):
    said = hosts("closes", user.module, tmp_path, "/dev/null", point, env=user.env)
    assert [line.partition(" ")[0] for line in said] == ["signature"]


@pytest.mark.parametrize("way", ["swtpm", "device", "library"])
@pytest.mark.parametrize("point", ["exiting", "every"])
def test_and_so_it_is_whatever_leads_to_the_tpm(hosts, owner, swtpm, device, tmp_path, way, point):
    library = f"{library_directory()}/libtss2-tcti-{swtpm.tcti.replace(':', '.so.0:')}"  # which tpm2-tss has to load
    tcti = {"swtpm": swtpm.tcti, "device": device.tcti, "library": library}[way]
    env = {**owner.env, "P11TPM_TCTI": tcti}
    said = hosts("closes", owner.module, tmp_path, device.path, point, env=env)
    assert [line.partition(" ")[0] for line in said] == ["signature"]


# -- what there is to be closed


def assert_kept(said: list[str], kept: str) -> None:
    assert said == ["initialized:", f"logged in: {kept}", f"signed: {kept}", "finalized:"]


def test_a_broker_is_a_socket_between_two_calls(hosts, user):
    assert_kept(hosts("keeps", user.module, env=user.env), "p11tpm.db socket")


def test_nothing_of_swtpm_is_kept_for_long(hosts, owner):
    assert_kept(hosts("keeps", owner.module, "without a socket", env=owner.env), "p11tpm.db")


def test_a_device_is_two_descriptors_between_two_calls(hosts, owner, device):
    env = {**owner.env, "P11TPM_TCTI": device.tcti}
    name = device.path.rpartition("/")[2]
    assert_kept(hosts("keeps", owner.module, env=env), f"p11tpm.db {name} anon_inode:[eventpoll]")


# -- a host without room for more


def test_a_host_without_room_for_descriptors_gets_errors(hosts, user):
    said = hosts("limit", user.module, env=user.env)
    assert (said[0], said[8]) == ("0:", "8: sign find login")
