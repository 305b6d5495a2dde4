import contextlib
import grp
import json
import os
import re
import sqlite3
import time

import pytest

import rig
from command import good
from p11tpm.cli.doctor import how_to_open
from p11tpm.tpm.command import START_AUTH_SESSION
from p11tpm.tpm.hmac_session import Opening
from rig.device import Device, response_of
from rig.proxy import NAMES


@pytest.fixture
def cli(p11tpm_cli, pin_file):
    good(p11tpm_cli("init", "--pin-file", pin_file))
    return p11tpm_cli


def sealed(swtpm):
    """Return a file with the context of an object, whose wrong authorisation values the TPM counts."""
    context, parent = (str(swtpm.directory / name) for name in ("sealed.context", "parent.context"))
    (swtpm.directory / "secret").write_text("secret")
    swtpm.tool("createprimary", "-c", parent)
    swtpm.flush()
    swtpm.tool("create", "-C", parent, "-i", str(swtpm.directory / "secret"), "-p", "right", "-c", context)
    swtpm.flush()
    return context


def findings(done):
    return {one["about"]: one for one in json.loads(done.stdout)}


def the_only_wrong(done, about):
    assert done.returncode == 1
    wrong = [one for one in findings(done).values() if one["state"] == "wrong"]
    assert [about] == [one["about"] for one in wrong], done.stdout
    assert wrong[0]["remedy"]
    return wrong[0]


def test_all_is_well(cli):
    found = findings(cli("doctor", "--json"))
    assert {"ok"} == {found[about]["state"] for about in ("store", "token 'p11tpm'", "TPM lockout", "TPM connection")}
    assert "tpm2_changeauth" in found["TPM lockout authorisation"]["remedy"]  # a new software TPM has none
    assert "ok     store: " in good(cli("doctor"))


def test_before_init(p11tpm_cli):
    found = findings(p11tpm_cli("doctor", "--json"))
    assert (found["store"]["state"], found["store"]["remedy"]) == ("note", "p11tpm init")


def test_a_lockout_authorisation_is_seen(cli, swtpm):
    swtpm.tool("changeauth", "--object-context=lockout", "secret")
    assert findings(cli("doctor", "--json"))["TPM lockout authorisation"]["state"] == "ok"


def test_logins_that_are_refused_for_the_sake_of_others_are_told(cli, swtpm, pin_file):
    for wrong in ("wrong 1", "wrong 2"):
        pin_file.write_text(wrong + "\n")
        assert cli("key", "generate", "--algorithm", "p256", "--label", "x", "--pin-file", pin_file).returncode
    done = cli("doctor", "--json")
    found = the_only_wrong(done, "TPM lockout")
    assert swtpm.lockout_counter() == 2
    assert "refused now" in found["text"]
    end = time.strptime(re.search(r"until about (\S+ \S+):", found["text"])[1], "%Y-%m-%d %H:%M:%S")
    assert time.time() + 900 < time.mktime(end) <= time.time() + 1000
    assert "clear-lockout" in found["remedy"]


def test_tries_that_others_have_used_up_refuse_nothing_yet(cli, swtpm):
    context = sealed(swtpm)
    for wrong in range(2):
        with pytest.raises(ChildProcessError, match="0x98E"):
            swtpm.tool("unseal", "-c", context, "-p", f"wrong {wrong}")
        swtpm.flush()
    assert swtpm.lockout_counter() == 2
    found = findings(cli("doctor", "--json"))["TPM lockout"]
    assert (found["state"], "after a wrong PIN, logins are refused" in found["text"]) == ("note", True)


@pytest.mark.parametrize(
    ("command", "code", "flushed"),
    [("StartAuthSession", 0x903, "-l"), ("StartAuthSession", 0x901, "-s"), ("HashSequenceStart", 0x902, "-t")],
)
def test_a_tpm_that_others_have_filled_is_told(cli, host_env, proxy, command, code, flushed):
    def answer(request):
        sent = NAMES.get(int.from_bytes(request[6:10], "big"))
        return b"\x80\x01\0\0\0\x0a" + code.to_bytes(4, "big") if sent == command else None

    proxy.answer = answer
    found = the_only_wrong(cli("doctor", "--json", env=host_env(proxy)), "TPM room")
    assert f"tpm2_flushcontext -T {proxy.tcti} {flushed}" in found["remedy"]
    proxy.answer = None
    assert findings(cli("doctor", "--json", env=host_env(proxy)))["TPM room"]["state"] == "ok"


def test_sessions_that_others_have_left_are_counted(cli, swtpm):
    opening = Opening()
    request = START_AUTH_SESSION.request(opening.handles(), b"", opening.parameters())
    for _ in range(3):
        assert response_of(swtpm, request)[6:10] == bytes(4)
    found = the_only_wrong(cli("doctor", "--json"), "TPM room")
    assert "3 loaded and 0 saved sessions" in found["text"]
    swtpm.flush()
    assert findings(cli("doctor", "--json"))["TPM room"]["state"] == "ok"
    assert swtpm.loaded() == []


def test_on_a_resource_manager_the_cost_of_a_key_that_is_not_resident_is_told(cli, host_env, swtpm, tmp_path):
    with contextlib.closing(Device(swtpm)) as device:
        (tmp_path / "tpmrm0").symlink_to(device.path)
        found = findings(cli("doctor", "--json", env={**host_env(), "P11TPM_TCTI": f"device:{tmp_path}/tpmrm0"}))
    assert "p11tpm key resident" in "".join(found["TPM resource manager"].values())
    assert "TPM resource manager" not in findings(cli("doctor", "--json"))


def test_a_cleared_tpm_is_another_one(cli, swtpm):
    swtpm.clear()
    assert "another TPM" in the_only_wrong(cli("doctor", "--json"), "token 'p11tpm'")["text"]


def test_after_a_cleared_tpm_one_can_start_again(cli, swtpm):
    swtpm.clear()
    good(cli("token", "delete", "p11tpm", "--yes"))
    good(cli("init", "--no-pin"))
    assert cli("doctor").returncode == 0


def test_a_token_whose_keys_stop_in_a_lockout(cli, store, swtpm):
    """It was made below a parent of which the TPM counts wrong values, as tpm2-pkcs11 makes them."""
    attributes = "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    context, public = (str(swtpm.directory / name) for name in ("parent.context", "parent.public"))
    swtpm.tool("createprimary", "-C", "o", "-G", "ecc256", "-a", attributes, "-c", context)
    swtpm.tool("evictcontrol", "-C", "o", "-c", context, "0x81000009")
    swtpm.tool("readpublic", "-c", "0x81000009", "-f", "tpmt", "-o", public)
    swtpm.flush()
    with sqlite3.connect(store / "p11tpm.db") as database:
        values = (0x81000009, (swtpm.directory / "parent.public").read_bytes())
        database.execute("UPDATE token SET srk_handle = ?, srk_public = ?", values)
    found = findings(cli("doctor", "--json"))["token 'p11tpm'"]
    assert found["state"] == "note"
    assert "p11tpm init --label" in found["remedy"]


def test_another_tpm(cli, host_env):
    with rig.Swtpm() as other:
        the_only_wrong(cli("doctor", "--json", env=host_env(other)), "token 'p11tpm'")


def test_a_storage_root_key_that_is_made_anew(cli, store, swtpm):
    with sqlite3.connect(store / "p11tpm.db") as database:
        database.execute("UPDATE token SET srk_handle = 0")
    assert findings(cli("doctor", "--json"))["token 'p11tpm'"]["state"] == "ok"
    assert swtpm.loaded() == []
    swtpm.clear()
    the_only_wrong(cli("doctor", "--json"), "token 'p11tpm'")


def test_a_store_open_to_others(cli, store):
    (store / "p11tpm.db").chmod(0o644)
    assert f"chmod o=,g-w {store}/p11tpm.db" == the_only_wrong(cli("doctor", "--json"), "store")["remedy"]


def test_a_store_that_a_group_may_read(cli, store):
    """As the workers of nginx do."""
    store.chmod(0o750)
    (store / "p11tpm.db").chmod(0o640)
    done = cli("doctor", "--json")
    assert done.returncode == 0
    found = findings(done)["store"]
    assert (found["state"], found["remedy"]) == ("note", f"if none does: chmod -R g= {store}")
    assert f"group {grp.getgrgid(os.getgid()).gr_name}" in found["text"]


def test_a_store_below_a_file(p11tpm_cli, host_env, tmp_path, swtpm):
    (tmp_path / "file").touch()
    env = host_env(swtpm, tmp_path / "file" / "below" / "store")
    found = the_only_wrong(p11tpm_cli("doctor", "--json", env=env), "store")
    assert "a part of its path is not a directory" in found["text"]


def test_a_store_that_others_may_write_to(cli, store):
    store.chmod(0o777)
    the_only_wrong(cli("doctor", "--json"), "store")


def test_no_tpm(cli, host_env, tmp_path):
    the_only_wrong(cli("doctor", "--json", env=host_env(f"device:{tmp_path}/tpmrm0")), "TPM device")
    the_only_wrong(cli("doctor", "--json", env=host_env("swtpm:host=127.0.0.1,port=1")), "TPM")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to a group")
@pytest.mark.parametrize(
    ("group", "mode", "remedy"),
    [
        (grp.getgrnam("daemon").gr_gid, 0o660, "usermod -aG daemon root"),
        (grp.getgrnam("daemon").gr_gid, 0o600, "tpm-udev"),
        (0, 0o660, "tpm-udev"),
        (987654, 0o660, "tpm-udev"),
    ],
)
def test_how_to_get_at_the_device(tmp_path, group, mode, remedy):
    device = tmp_path / "tpmrm0"
    device.touch()
    device.chmod(mode)
    os.chown(device, 0, group)
    assert remedy in how_to_open(device)


def test_wrong_pins_are_noted(cli, tmp_path):
    wrong = rig.write_secret(tmp_path / "wrong", "999999\n")
    cli("key", "generate", "--label", "web", "--pin-file", wrong)
    found = findings(cli("doctor", "--json"))["token 'p11tpm'"]
    assert (found["state"], found["text"].startswith("1 of 5 wrong PINs")) == ("note", True)


def test_a_locked_tpm_is_wrong(cli, swtpm, tmp_path):
    swtpm.set_lockout(1)
    cli("key", "generate", "--label", "web", "--pin-file", rig.write_secret(tmp_path / "wrong", "999999\n"))
    assert "locked" in the_only_wrong(cli("doctor", "--json"), "TPM lockout")["text"]


def test_trust_in_a_tpm_that_may_be_on_a_bus_is_doubted(cli, host_env, store, tmp_path):
    env = host_env()
    (tmp_path / "p11tpm.conf").write_text("bus = trusted\n")
    assert "TPM bus" not in findings(cli("doctor", "--json", env=env))
    with sqlite3.connect(store / "p11tpm.db") as database:
        database.execute("UPDATE token SET tpm = 'IFX|SLB9670|7.85'")
    assert findings(cli("doctor", "--json", env=env))["TPM bus"]["state"] == "note"
    (tmp_path / "p11tpm.conf").write_text("")
    assert "TPM bus" not in findings(cli("doctor", "--json", env=env))


def test_a_log_that_nothing_would_be_written_to(cli, host_env, tmp_path):
    env = host_env()
    (tmp_path / "logs").mkdir()
    (tmp_path / "p11tpm.conf").write_text(f"log = {tmp_path}/logs/p11tpm.log\n")
    assert findings(cli("doctor", "--json", env=env))["log"]["state"] == "ok"
    assert not (tmp_path / "logs" / "p11tpm.log").exists()
    (tmp_path / "logs").chmod(0o777)
    assert "everybody may write" in the_only_wrong(cli("doctor", "--json", env=env), "log")["text"]
