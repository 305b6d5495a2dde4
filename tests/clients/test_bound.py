"""Programs with a token that is bound to signed values of PCR 11: they work in the phases that are signed alone."""

from __future__ import annotations

import base64
import hmac
import os
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest

import rig
from p11tpm.tpm import policy
from p11tpm.tpm.state import Signed, States
from rig.process import write_secret
from rig.signing import PHASES, Image

if TYPE_CHECKING:
    from pathlib import Path

QUICK = ("-o", "KexAlgorithms=curve25519-sha256")
TOKEN = "pkcs11:token=test"


class Machine:
    """A machine that has booted a signed image, and a user whose token is bound to it."""

    def __init__(self, tabrmd: rig.Tabrmd, directory: Path) -> None:
        self.tpm = tabrmd.swtpm
        self.broker = tabrmd
        self.user = rig.User(tabrmd, directory)
        self.image = Image(directory)
        with rig.Swtpm() as calculator:  # systemd-measure starts a session in a TPM that nobody else has
            self.signatures = directory / "signatures.json"
            self.signatures.write_text(self.image.signatures(calculator))
        write_secret(directory / "p11tpm.conf", f"log = {directory / 'log'}\npcr-signature = {self.signatures}\n")
        self.log = directory / "log"
        self.image.boot(self.tpm, tabrmd)
        self.user.init()
        bind = ("token", "bind", "--signed-pcr", "11", "--pcr-key", self.image.public_file)
        self.user.p11tpm(*bind, "--pin-file", self.user.pin_file)
        self.user.env.update(PIN=self.user.pin)

    def enter(self, phase: bytes) -> None:
        self.image.enter(self.tpm, phase, self.broker)

    def tool(self, *command: str | Path) -> tuple[bool, str]:
        """Whether a program ends well, and what it says."""
        done = subprocess.run(
            command,
            env=self.user.env,
            cwd=self.user.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def machine(tabrmd: rig.Tabrmd, tmp_path: Path) -> Machine:
    return Machine(tabrmd, tmp_path)


def pkcs11_tool(machine: Machine) -> tuple[bool, str]:
    (machine.user.directory / "data").write_bytes(bytes(32))
    module = ("/usr/bin/pkcs11-tool", "--module", machine.user.module)
    sign = ("--sign", "--mechanism", "ECDSA", "--label", "ssh", "--input-file", "data", "--output-file", "signature")
    return machine.tool(*module, "--login", "--pin", "env:PIN", *sign)


def p11tool(machine: Machine) -> tuple[bool, str]:
    given = ("--provider", machine.user.module, "--batch", "--login", "--set-pin", machine.user.pin)
    good, said = machine.tool("/usr/bin/p11tool", *given, "--list-privkeys", TOKEN)
    return good and "Label: ssh" in said, said


def ssh(machine: Machine, sshd: rig.Sshd) -> tuple[bool, str]:
    sshd.authorize(machine.user.public_key("ssh"))
    before = len(machine.user.askpass.questions())
    done = sshd.login("-o", f'PKCS11Provider="{machine.user.module}"', *QUICK, env=machine.user.env)
    assert len(machine.user.askpass.questions()) == before + 1, "it asks once"
    return done.stdout == "welcome\n", done.stdout + done.stderr


def ssh_agent(machine: Machine, sshd: rig.Sshd) -> tuple[bool, str]:
    sshd.authorize(machine.user.public_key("ssh"))
    with rig.Agent(machine.user.env, allow=os.path.realpath(machine.user.module)) as agent:
        added = agent.ssh_add("-s", machine.user.module)
        if added.returncode:
            return False, added.stderr
        done = sshd.login("-o", f'IdentityAgent="{agent.socket}"', *QUICK, env=machine.user.env)
        return done.stdout == "welcome\n", done.stdout + done.stderr


def openssl(machine: Machine) -> tuple[bool, str]:
    machine.user.env["PKCS11_MODULE_PATH"] = machine.user.module
    (machine.user.directory / "data").write_bytes(bytes(32))
    key = f"{TOKEN};object=ssh;type=private;pin-source=file:{machine.user.pin_file}"
    sign = ("-engine", "pkcs11", "-keyform", "engine", "-sign", key, "-out", "signature", "data")
    return machine.tool("/usr/bin/openssl", "dgst", "-sha256", *sign)


# A program, and what it says when it is refused
PROGRAMS = {
    "pkcs11-tool": (pkcs11_tool, "CKR_FUNCTION_FAILED"),
    "p11tool": (p11tool, "PKCS #11 error"),
    "ssh": (ssh, "Permission denied"),
    "ssh-agent": (ssh_agent, "agent refused operation"),
    "openssl": (openssl, "Login failed"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_works_in_the_phases_that_are_signed(machine: Machine, sshd: rig.Sshd, name: str) -> None:
    program, refusal = PROGRAMS[name]
    arguments = (machine, sshd) if name.startswith("ssh") else (machine,)
    for phase in (None, *PHASES[1:]):
        if phase:
            machine.enter(phase)
        good, said = program(*arguments)  # type: ignore[operator]
        assert good, (phase, said)
    assert not machine.log.exists()
    machine.enter(b"no phase of the image")
    for number in range(1, 7):  # more often than wrong PINs are allowed
        good, said = program(*arguments)  # type: ignore[operator]
        assert not good
        assert refusal in said
        assert machine.log.read_text().count("no signature for the present PCR 11 by key") >= number
    assert machine.tpm.tool("getcap", "properties-variable", via=machine.broker).count("LOCKOUT_COUNTER: 0x0") == 1
    with sqlite3.connect(machine.user.store / "p11tpm.db") as db:
        assert db.execute("SELECT * FROM failure").fetchall() == []


def test_one_of_two_tokens_is_bound(machine: Machine) -> None:
    """With `token = *` the other one goes on working in a state that is not signed."""
    conf = f"log = {machine.log}\npcr-signature = {machine.signatures}\ntoken = *\n"
    write_secret(machine.user.directory / "p11tpm.conf", conf)
    machine.user.p11tpm("token", "create", "--label", "free", "--pin-file", machine.user.pin_file)
    generate = ("key", "generate", "--label", "free", "--token", "free", "--pin-file", machine.user.pin_file)
    machine.user.p11tpm(*generate)
    machine.enter(b"no phase of the image")
    module = ("/usr/bin/pkcs11-tool", "--module", machine.user.module, "--login", "--pin", "env:PIN")
    sign = ("--sign", "--mechanism", "ECDSA", "--input-file", "data", "--output-file", "signature")
    (machine.user.directory / "data").write_bytes(bytes(32))
    good, said = machine.tool(*module, "--token-label", "free", *sign, "--label", "free")
    assert good, said
    good, said = machine.tool(*module, "--token-label", "test", *sign, "--label", "ssh")
    assert not good
    assert "CKR_FUNCTION_FAILED" in said


def test_tpm2_tools_open_it_by_hand(tmp_path: Path, swtpm: rig.Swtpm) -> None:
    """They come to the policy of the user's object, and unseal it with the value that the PIN stands for."""
    swtpm.extend(7, b"keys of the firmware")
    user = rig.User(swtpm, tmp_path)
    user.init()
    user.p11tpm("token", "bind", "--pcr", "7", "--pin-file", user.pin_file)
    with sqlite3.connect(user.store / "p11tpm.db") as db:
        columns = "uuid, salt, srk_handle, so_public, user_public, user_private"
        uuid, salt, parent, so, public, private = db.execute(f"SELECT {columns} FROM token").fetchone()
    own, officer = policy.branches(so)
    (tmp_path / "own").write_bytes(own)
    (tmp_path / "officer").write_bytes(officer)
    digest = tmp_path / "digest"

    def shown(*kind: str) -> str:
        session = str(tmp_path / "session")
        swtpm.tool("startauthsession", *kind, "-S", session)
        swtpm.tool("policypcr", "-S", session, "-l", "sha256:7")
        swtpm.tool("policyauthvalue", "-S", session, "-L", str(tmp_path / "state"))
        files = ",".join(str(tmp_path / name) for name in ("own", "officer", "state"))
        swtpm.tool("policyor", "-S", session, "-L", str(digest), f"sha256:{files}")
        return session

    swtpm.tool("flushcontext", shown())
    assert digest.read_bytes() == public[10:42]
    for name, content in (("public", public), ("private", private)):
        (tmp_path / name).write_bytes(len(content).to_bytes(2, "big") + content)
    loaded = str(tmp_path / "loaded")
    parts = ("-u", str(tmp_path / "public"), "-r", str(tmp_path / "private"))
    swtpm.tool("load", "-C", f"{parent:#x}", *parts, "-c", loaded)
    value = hmac.digest(salt, b"USER|" + uuid + b"|" + user.pin.encode(), "sha256")[:-1] + b"\x01"
    session = shown("--policy-session")
    secret = tmp_path / "secret"
    swtpm.tool("unseal", "-c", loaded, "-p", f"session:{session}+hex:{value.hex()}", "-o", str(secret))
    assert len(secret.read_bytes()) == 32
    swtpm.flush()


def test_tpm2_tools_come_to_the_policy_of_a_signed_state(tmp_path: Path, swtpm: rig.Swtpm) -> None:
    """With a ticket for a signature of the present values, which they have the TPM verify."""
    image = Image(tmp_path)
    image.boot(swtpm)
    key, name, policy_file, signature, ticket, digest = (
        str(tmp_path / word) for word in ("key", "name", "pol", "sig", "ticket", "digest")
    )
    entry = image.entry(swtpm.pcr(11))
    (tmp_path / "pol").write_bytes(bytes.fromhex(str(entry["pol"])))
    (tmp_path / "sig").write_bytes(base64.b64decode(str(entry["sig"])))
    (tmp_path / "public").write_bytes(len(image.public).to_bytes(2, "big") + image.public)
    swtpm.tool("loadexternal", "-C", "o", "-u", str(tmp_path / "public"), "-c", key, "-n", name)
    signed = ("-g", "sha256", "-m", policy_file, "-s", signature, "-f", "rsassa")
    swtpm.tool("verifysignature", "-c", key, *signed, "-t", ticket)
    session = str(tmp_path / "session")
    swtpm.tool("startauthsession", "-S", session)
    swtpm.tool("policyauthorize", "-S", session, "-i", policy_file, "-n", name, "-t", ticket)
    swtpm.tool("policyauthvalue", "-S", session, "-L", digest)
    swtpm.flush()
    assert States(Signed(image.public, (11,))).digests(pin=True) == ((tmp_path / "digest").read_bytes(),)
