"""Resident keys: commands on the wire, and what happens when the TPM no longer has what the store remembers."""

import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from cryptoki import SO, USER, Rv
from keys import ec_pair, public_key, rsa_pair, ulong, verify_ecdsa, verify_pkcs1

import rig
from command import failed, good
from conftest import CLI
from p11tpm.ck import CKA, CKM, CKO, CKR
from p11tpm.tpm import resident as module

PIN, SO_PIN = b"123456", b"so-secret"
FIRST = module.HANDLES.start
OWNER = "owner secret"
SIGNS = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"


class Ground:
    """A token with a P-256 key "key" and an RSA key "rsa", its TPM, and the command on the same store."""

    def __init__(self, run, proxy, swtpm, tmp_path):
        self.run, self.proxy, self.swtpm, self.tmp_path = run, proxy, swtpm, tmp_path
        self.database = tmp_path / "store" / "p11tpm.db"
        self.pin_file = rig.write_secret(tmp_path / "pin", "123456\n")
        self.open()
        ec_pair(run, self.session)
        rsa_pair(run, self.session)
        self.tpm_left_alone()

    def open(self):
        self.session = self.run.open(self.run.slots()[0])
        self.run.login(self.session, USER, PIN)

    def pair(self, label):
        """Find a public and a private key; handles of private keys end with each login."""
        classes = (CKO.PUBLIC_KEY, CKO.PRIVATE_KEY)
        return [self.run.find(self.session, {CKA.CLASS: ulong(one), CKA.LABEL: label.encode()})[0] for one in classes]

    def tpm_left_alone(self):
        """End the login: there is no resource manager, so somebody else's sessions would be in the way."""
        self.run.logout(self.session)
        self.run.close(self.session)
        self.proxy.clear()

    def cli(self, *words, pin=True):
        more = ("--pin-file", str(self.pin_file)) if pin else ()
        command = [CLI, *words, *more]
        return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False)

    def key(self, *words, pin=True):
        return self.cli("key", *words, pin=pin)

    def listed(self):
        return {one["label"]: one["resident"] for one in json.loads(good(self.key("list", "--json", pin=False)))}

    def sign(self, label="key"):
        """Sign in a new login, have the signature verified, and give the commands after the login."""
        self.open()
        public, private = self.pair(label)
        self.proxy.clear()
        try:
            if label == "rsa":
                signature = self.run.sign(self.session, private, CKM.SHA256_RSA_PKCS, b"text")
                verify_pkcs1(public_key(self.run, self.session, public), signature, b"text", "sha256")
            else:
                signature = self.run.sign(self.session, private, CKM.ECDSA_SHA256, b"text")
                verify_ecdsa(public_key(self.run, self.session, public), signature, b"text", "sha256")
            return self.proxy.names
        finally:
            self.tpm_left_alone()

    def owner(self, value=OWNER):
        """Set the owner's authorisation value; give the file with it."""
        self.swtpm.tool("changeauth", "--object-context=owner", value)
        return str(rig.write_secret(self.tmp_path / "owner", value + "\n"))

    def handles(self):
        return [handle for handle in self.swtpm.persistent() if int(handle, 16) in module.HANDLES]


@pytest.fixture
def ground(token, proxy, swtpm, tmp_path):
    return Ground(token, proxy, swtpm, tmp_path)


def test_a_resident_key_is_used_where_it_is(ground, swtpm):
    assert ground.sign() == ["Load", "Sign"]
    assert good(ground.key("resident", "key")) == f"{FIRST:#x}\n"
    assert good(ground.key("resident", "rsa")) == f"{FIRST + 1:#x}\n"
    assert swtpm.loaded() == []
    assert ground.listed() == {"key": f"{FIRST:#x}", "rsa": f"{FIRST + 1:#x}"}
    assert f"resident at {FIRST:#x}" in good(ground.key("list", pin=False))
    assert ground.sign() == ["Sign"]
    assert ground.sign("rsa") == ["RSA_Decrypt"]
    ground.open()
    for _ in range(3):
        ground.run.sign(ground.session, ground.pair("key")[1], CKM.ECDSA, bytes(32))
    assert len(swtpm.loaded()) == 1, "a session, no key"
    ground.tpm_left_alone()
    good(ground.key("resident", "key", "--undo"))
    assert ground.handles() == [f"{FIRST + 1:#x}"]
    assert ground.listed() == {"key": None, "rsa": f"{FIRST + 1:#x}"}
    assert ground.sign() == ["Load", "Sign"]


def test_a_running_program_notices(ground):
    """It goes from a loaded key to a resident one and back, with one flush of what it had loaded."""
    ground.open()
    private = ground.pair("key")[1]
    ground.run.sign(ground.session, private, CKM.ECDSA, bytes(32))
    for words in ((), ("--undo",)):
        good(ground.key("resident", "key", *words))
        ground.proxy.clear()
        ground.run.sign(ground.session, private, CKM.ECDSA, bytes(32))
        ground.run.sign(ground.session, private, CKM.ECDSA, bytes(32))
        wanted = ["Load", "Sign", "Sign"] if words else ["FlushContext", "Sign", "Sign"]
        assert wanted == ground.proxy.names
    ground.tpm_left_alone()


def test_what_was_interrupted_is_found_again(ground):
    good(ground.key("resident", "key"))
    with sqlite3.connect(ground.database) as database:
        database.execute("UPDATE object SET resident = 0")  # as if the process had ended before it wrote this
    assert ground.sign() == ["Load", "Sign"]
    assert good(ground.key("resident", "key")) == f"{FIRST:#x}\n"
    assert ground.handles() == [f"{FIRST:#x}"]
    assert ground.sign() == ["Sign"]
    with sqlite3.connect(ground.database) as database:
        database.execute("UPDATE object SET resident = 0")
    good(ground.key("resident", "key", "--undo"))
    assert ground.handles() == []
    good(ground.key("resident", "key", "--undo"))


def test_a_handle_that_was_taken_away(ground, swtpm):
    good(ground.key("resident", "key"))
    swtpm.tool("evictcontrol", "-C", "o", "-c", f"{FIRST:#x}")
    found = {one["about"]: one for one in json.loads(ground.cli("doctor", "--json", pin=False).stdout)}
    stale = found["key 'key' of token 'test token'"]
    assert (stale["state"], stale["remedy"]) == ("note", "p11tpm key resident 'key'")
    assert ground.sign() == ["Sign", "Load", "Sign"]
    assert ground.sign() == ["Load", "Sign"]
    assert ground.listed()["key"] is None
    good(ground.key("resident", "key"))
    assert ground.sign() == ["Sign"]
    found = {one["about"]: one for one in json.loads(ground.cli("doctor", "--json", pin=False).stdout)}
    assert found["key 'key' of token 'test token'"]["state"] == "ok"


@pytest.mark.parametrize("attributes", ["", "|noda"])
def test_somebody_elses_key_at_the_handle(ground, swtpm, attributes):
    """One with protection against guessing counts what it is asked with: only once, whatever comes after."""
    good(ground.key("resident", "key"))
    swtpm.tool("evictcontrol", "-C", "o", "-c", f"{FIRST:#x}")
    context = swtpm.directory / "other.context"
    swtpm.tool(
        "createprimary", "-C", "o", "-G", "ecc256:ecdsa", "-p", "other", "-a", SIGNS + attributes, "-c", str(context)
    )
    swtpm.tool("evictcontrol", "-C", "o", "-c", str(context), f"{FIRST:#x}")
    swtpm.flush()
    assert ground.sign() == ["Sign", "Load", "Sign"]
    for _ in range(5):
        assert ground.sign() == ["Load", "Sign"]
    assert swtpm.lockout_counter() == (0 if attributes else 1)
    assert good(ground.key("resident", "key")) == f"{FIRST + 1:#x}\n"
    good(ground.key("resident", "key", "--undo"))
    assert ground.handles() == [f"{FIRST:#x}"], "somebody else's stays"


def test_a_cleared_tpm(ground, swtpm):
    good(ground.key("resident", "key"))
    swtpm.clear()
    with pytest.raises(Rv) as error:
        ground.open()
    assert error.value == CKR.TOKEN_NOT_RECOGNIZED
    ground.run.finalize()
    good(ground.cli("token", "delete", "test token", "--yes", pin=False))
    ground.run.initialize()


def test_a_reset_of_the_tpm(ground, swtpm):
    good(ground.key("resident", "key"))
    ground.open()
    private = ground.pair("key")[1]
    ground.run.sign(ground.session, private, CKM.ECDSA, bytes(32))
    swtpm.restart()
    ground.proxy.clear()
    ground.run.sign(ground.session, private, CKM.ECDSA, bytes(32))
    assert ground.proxy.names[-1] == "Sign"
    assert "Load" not in ground.proxy.names
    ground.tpm_left_alone()
    assert ground.listed()["key"] == f"{FIRST:#x}"


def test_a_storage_root_key_that_is_made_anew(ground, swtpm):
    with sqlite3.connect(ground.database) as database:
        database.execute("UPDATE token SET srk_handle = 0")
    good(ground.key("resident", "key"))
    assert swtpm.loaded() == []
    assert ground.sign() == ["Sign"]
    good(ground.key("resident", "key", "--undo"))
    assert (ground.handles(), swtpm.loaded()) == ([], [])


def test_through_a_resource_manager(tabrmd, p11tpm_cli, host_env):
    env = host_env(tabrmd)
    good(p11tpm_cli("init", "--no-pin", env=env))
    for handle in (f"{FIRST:#x}", None):
        good(p11tpm_cli("key", "resident", *(() if handle else ("--undo",)), env=env))
        assert json.loads(good(p11tpm_cli("key", "list", "--json", env=env)))[0]["resident"] == handle
        found = {one["about"]: one["state"] for one in json.loads(p11tpm_cli("doctor", "--json", env=env).stdout)}
        assert found.get("key 'ssh' of token 'p11tpm'") == ("ok" if handle else None)


# -- the owner


def test_the_owner_has_to_agree(ground, swtpm):
    file = ground.owner()
    failed(ground.key("resident", "key"), "--owner-auth-file FILE")
    wrong = rig.write_secret(ground.tmp_path / "wrong", "something\n")
    failed(ground.key("resident", "key", "--owner-auth-file", wrong), "not the authorisation value of the TPM's owner")
    assert ground.handles() == []
    assert ground.listed()["key"] is None
    assert swtpm.lockout_counter() == 0
    ground.proxy.clear()
    good(ground.key("resident", "key", "--owner-auth-file", file))
    assert not any(OWNER.encode() in command.request for command in ground.proxy.commands)
    assert ground.sign() == ["Sign"]
    failed(ground.key("resident", "key", "--undo"), "--owner-auth-file FILE")
    assert ground.sign() == ["Sign"]
    good(ground.key("resident", "key", "--undo", "--owner-auth-file", file))
    assert ground.handles() == []
    assert swtpm.lockout_counter() == 0


def test_the_owners_file_is_closed_to_others(ground):
    file = ground.owner()
    os.chmod(file, 0o644)  # noqa: PTH101
    failed(ground.key("resident", "key", "--owner-auth-file", file), "owner's authorisation value in it: chmod 600")


def test_a_key_that_the_owner_keeps_is_not_deleted(ground):
    file = ground.owner()
    good(ground.key("resident", "key", "--owner-auth-file", file))
    ground.open()
    with pytest.raises(Rv) as error:
        ground.run.C_DestroyObject(ground.session, ground.pair("key")[1])
    assert error.value == CKR.ACTION_PROHIBITED
    ground.tpm_left_alone()
    failed(ground.key("delete", "key", "--yes"), "--owner-auth-file FILE")
    failed(ground.cli("token", "delete", "test token", "--yes", pin=False), "--owner-auth-file FILE")
    slot = ground.run.slots()[0]
    with pytest.raises(Rv) as error:
        ground.run.init_token(slot, SO_PIN, "again")
    assert error.value == CKR.ACTION_PROHIBITED
    assert ground.sign() == ["Sign"], "nothing was changed"
    assert len(ground.handles()) == 1


# -- the end of keys


def test_deleting_a_key_evicts_it(ground):
    good(ground.key("resident", "key"))
    good(ground.key("resident", "rsa"))
    good(ground.key("delete", "rsa", "--yes"))
    assert ground.handles() == [f"{FIRST:#x}"]
    ground.open()
    ground.run.C_DestroyObject(ground.session, ground.pair("key")[1])
    ground.tpm_left_alone()
    assert ground.handles() == []


def test_deleting_a_token_evicts_its_keys(ground):
    good(ground.key("resident", "key"))
    good(ground.key("resident", "rsa"))
    ground.run.finalize()
    good(ground.cli("token", "delete", "test token", "--yes", pin=False))
    assert ground.handles() == []
    ground.run.initialize()


def test_initialising_a_token_again_evicts_its_keys(ground):
    good(ground.key("resident", "key"))
    slot = ground.run.slots()[0]
    ground.run.init_token(slot, SO_PIN, "again")
    assert ground.handles() == []
    session = ground.run.open(slot)
    ground.run.login(session, SO, SO_PIN)


def test_a_full_tpm(ground, swtpm):
    swtpm.tool("createprimary", "-C", "o", "-G", "rsa2048", "-c", str(swtpm.directory / "other.context"))
    with pytest.raises(ChildProcessError, match="0x14B"):  # noqa: PT012 - it is not known how many there are room for
        for handle in range(0x81000100, 0x81000200):
            swtpm.tool("evictcontrol", "-C", "o", "-c", "0x80000000", f"{handle:#x}")
    swtpm.flush()
    failed(ground.key("resident", "rsa"), "no room for another resident key: let one go")
    assert ground.listed()["rsa"] is None
    assert ground.sign("rsa") == ["Load", "RSA_Decrypt"]
    assert swtpm.loaded() == []
    swtpm.tool("evictcontrol", "-C", "o", "-c", "0x81000100")
    good(ground.key("resident", "rsa"))


def test_a_public_key_alone_can_not_be_resident(ground):
    ground.open()
    ground.run.C_DestroyObject(ground.session, ground.pair("key")[1])
    ground.tpm_left_alone()
    failed(ground.key("resident", "key"), "'key' is not a key in the TPM")


# -- what is left behind


KILLED = """if True:
    import os, signal, sys
    from p11tpm.cli.root import p11tpm
    from p11tpm.tpm import resident
    persist = resident._persist
    def killed(*args):
        if sys.argv[1] == "after":
            persist(*args)
        os.kill(os.getpid(), signal.SIGKILL)
    resident._persist = killed
    p11tpm(sys.argv[2:])
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_key_that_was_made_resident_by_a_killed_command_is_evicted_when_it_is_deleted(ground, swtpm, when):
    command = [sys.executable, "-c", KILLED, when, "key", "resident", "key", "--pin-file", str(ground.pin_file)]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(ground.handles()) == (when == "after")
    swtpm.flush()
    good(ground.key("delete", "key", "--yes"))
    assert ground.handles() == []


def strays(ground):
    found = json.loads(ground.cli("doctor", "--json", pin=False).stdout)
    return [(one["state"], one["text"], one["remedy"]) for one in found if one["about"] == "resident key"]


def test_doctor_names_a_resident_key_that_the_store_does_not_know_of(ground):
    good(ground.key("resident", "key"))
    assert strays(ground) == []
    with sqlite3.connect(ground.database) as database:
        database.execute("UPDATE object SET resident = 0")
    ((state, text, remedy),) = strays(ground)
    assert (state, f"{FIRST:#x}" in text, "'key'" in text) == ("note", True, True)
    assert remedy.startswith("p11tpm key resident 'key'")
    good(ground.key("delete", "key", "--yes"))
    ((state, text, remedy),) = strays(ground)
    assert (state, "of no key of this store" in text) == ("note", True)
    assert remedy.endswith(f"tpm2_evictcontrol -C o -c {FIRST:#x}")


def test_doctor_leaves_keys_of_other_software_alone(ground, swtpm):
    context = str(swtpm.directory / "other.context")
    for algorithm, more in (("ecc256:ecdsa", ()), ("ecc256:ecdsa", ("-g", "sha384"))):
        swtpm.tool("createprimary", "-C", "o", "-G", algorithm, *more, "-a", SIGNS, "-c", context)
        swtpm.tool("evictcontrol", "-C", "o", "-c", context)
        swtpm.flush()
    assert strays(ground) == []


def test_a_key_that_is_there_twice_is_evicted_twice(ground):
    """Two commands made it resident at the same time."""
    good(ground.key("resident", "key"))
    with sqlite3.connect(ground.database) as database:
        database.execute("UPDATE object SET resident = 0")
    code = "import sys; from p11tpm.cli.root import p11tpm; from p11tpm.tpm import resident; "
    code += "resident._find = lambda *_: 0; p11tpm(sys.argv[1:])"
    command = [sys.executable, "-c", code, "key", "resident", "key", "--pin-file", str(ground.pin_file)]
    subprocess.run(command, env=dict(os.environ), capture_output=True, timeout=60, check=True)
    assert ground.handles() == [f"{FIRST:#x}", f"{FIRST + 1:#x}"]
    good(ground.key("resident", "key", "--undo"))
    assert ground.handles() == []
