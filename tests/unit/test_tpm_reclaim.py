"""What killed programs left in a TPM without a resource manager."""

from __future__ import annotations

import os

import pytest

from p11tpm.ck import CKR
from p11tpm.error import TpmError
from p11tpm.tpm import Key, Tpm, command, template
from p11tpm.tpm.connection import Connection
from rig.deadline import exit_code, fork
from unit.test_tpm_connection import Device
from unit.tpm_ground import Ground, public_key

FULL_OF_KEYS = "is full.* tpm2_flushcontext -t$"
FULL_OF_SESSIONS = "is full.* tpm2_flushcontext -l$"


@pytest.fixture
def ground(proxy):
    with Ground(proxy) as ground:
        yield ground


def sign_and_die(ground: Ground, key: Key) -> None:
    """Use a key in a process that ends without a word to the TPM."""
    ground.start_again()

    def sign() -> None:
        own = Tpm(ground.proxy.tcti)
        own.bind(ground.srk)
        own.sign(key, bytes(32))
        os._exit(0)  # before `own` closes its connection

    assert exit_code(fork(sign)) == 0
    ground.proxy.clear()


def use(tpm: Tpm, ground: Ground, key: Key) -> None:
    tpm.bind(ground.srk)
    assert all(tpm.sign(key, bytes(32)))


def test_keys_of_the_store_are_flushed_and_no_others(ground, swtpm):
    ours, foreign = (ground.key(template.ec("p256")) for _ in range(2))
    for key in (ours, foreign):
        sign_and_die(ground, key)
    left = swtpm.loaded()
    keys = [handle for handle in left if int(handle, 16) >= 0x80000000]
    tpm = Tpm(ground.proxy.tcti, is_ours={ours.public}.__contains__)
    use(tpm, ground, ours)
    assert ground.proxy.names.count("Load") == 7, "it waits before it takes anything away"
    assert ground.proxy.names.count("FlushContext") == 7, "six sessions of its own and one key"
    tpm.release()
    assert swtpm.loaded() == [handle for handle in left if handle != keys[0]]
    public = swtpm.tool("readpublic", "--object-context", keys[1])
    assert f"{public_key(foreign).public_numbers().x:064x}" in public


def test_a_tpm_full_of_foreign_keys(ground, swtpm):
    key, *foreign = (ground.key(template.ec("p256")) for _ in range(3))
    for other in foreign:
        sign_and_die(ground, other)
    left = swtpm.loaded()
    tpm = Tpm(ground.proxy.tcti, is_ours={key.public}.__contains__)
    for _ in range(2):
        with pytest.raises(TpmError, match=FULL_OF_KEYS) as caught:
            use(tpm, ground, key)
        assert caught.value.rv == CKR.DEVICE_MEMORY
    tpm.release()
    assert swtpm.loaded() == left


def test_a_resource_manager_is_trusted_with_it(ground, monkeypatch):
    monkeypatch.setattr(Connection, "has_manager", True)
    key = ground.key(template.ec("p256"))
    for _ in range(2):
        sign_and_die(ground, key)
    with pytest.raises(TpmError, match=FULL_OF_KEYS):
        use(Tpm(ground.proxy.tcti, is_ours=lambda _public: True), ground, key)
    assert "GetCapability" not in ground.proxy.names


@pytest.mark.parametrize("way", ["swtpm", "device"])
def test_sessions_go_only_where_nobody_else_can_use_them(ground, swtpm, way):
    """Linux opens /dev/tpm0 once, so nobody is left who has the sessions; a socket is for everybody."""
    key = ground.key(template.ec("p256"))
    for _ in range(3):
        sign_and_die(ground, key)
        swtpm.tool("flushcontext", "--transient-object")
    device = Device(swtpm)
    tpm = Tpm({"swtpm": ground.proxy.tcti, "device": f"device:{device.path}"}[way])
    if way == "swtpm":
        with pytest.raises(TpmError, match=FULL_OF_SESSIONS) as caught:
            use(tpm, ground, key)
        assert caught.value.rv == CKR.DEVICE_MEMORY
        assert len(swtpm.loaded()) == 3
    else:
        use(tpm, ground, key)
        tpm.release()
        assert swtpm.loaded() == []
    os.close(device.slave)
    os.close(device.master)


def test_managers_are_known_by_their_names(tmp_path):
    for name, managed in {"tpm0": False, "tpm1": False, "tpmrm0": True, "tpmrm1": True}.items():
        (tmp_path / name).touch()
        connection = Connection(f"device:{tmp_path / name}", 1)
        connection.open()
        assert (connection.has_manager, connection.is_exclusive) == (managed, not managed)
        connection.close()


# -- what a connection flushes at its end

COMMANDS = [one for one in vars(command).values() if isinstance(one, command.Command)]
HANDLE = 0x80ABCDEF


@pytest.mark.parametrize("sent", COMMANDS, ids=lambda sent: sent.name)
def test_the_connection_knows_what_makes_a_handle(proxy, sent):
    """The connection's own list has each command that is declared to make something."""
    proxy.answer = lambda _request: bytes.fromhex("80010000000e00000000") + HANDLE.to_bytes(4, "big")
    connection = Connection(proxy.tcti, 10)
    connection.open()
    connection.transact(sent.request(bytes(4), b"", b""), 10)
    connection.close()
    flushed = [one.request[-4:] for one in proxy.commands if one.request != sent.request(bytes(4), b"", b"")]
    assert flushed == ([HANDLE.to_bytes(4, "big")] if sent.makes else [])


def test_the_commands_that_make_and_end_handles():
    """They are those of Part 3; what is not declared here would stay in a TPM without resource manager."""
    assert {one.name for one in COMMANDS if one.makes} == {
        *("StartAuthSession", "Load", "CreatePrimary", "HMAC_Start", "HashSequenceStart", "LoadExternal")
    }
    assert {one.name for one in COMMANDS if one.ends} == {"FlushContext", "SequenceComplete"}


@pytest.mark.parametrize("ending", COMMANDS, ids=lambda sent: sent.name)
def test_the_connection_knows_what_ends_a_handle(proxy, ending):
    proxy.answer = lambda _request: bytes.fromhex("80010000000e00000000") + HANDLE.to_bytes(4, "big")
    connection = Connection(proxy.tcti, 10)
    connection.open()
    connection.transact(command.HMAC_START.request(bytes(4), b"", b""), 10)
    connection.transact(ending.request(HANDLE.to_bytes(4, "big"), b"", b""), 10)
    connection.close()
    assert len(proxy.commands) == 2 + (not ending.ends)
