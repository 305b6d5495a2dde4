"""OpenSSH as it is: ssh, ssh-keygen, ssh-add and ssh-agent against a real sshd."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

import rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LABELS = ["ssh", "bigger", "work"]  # P-256, P-384, RSA-2048


def provider(user: rig.User) -> tuple[str, str]:
    return "-o", f'PKCS11Provider="{user.module}"'


def by_agent(agent: rig.Agent) -> tuple[str, str]:
    return "-o", f'IdentityAgent="{agent.socket}"'


def start_agent(user: rig.User) -> rig.Agent:
    return rig.Agent(user.env, allow=os.path.realpath(user.module))


def check_silent(agent: rig.Agent) -> None:
    """The agent's log holds what ssh-agent says of itself, and nothing of the module."""
    assert [line for line in agent.log.splitlines() if not line.startswith(("SSH_AUTH_SOCK=", "echo Agent pid"))] == []


def check_welcome(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, "welcome\n", "")


def material(line: str) -> list[str]:
    """Key type and key of a public key line, without its comment."""
    return line.split()[:2]


@pytest.fixture
def agent(user: rig.User) -> Iterator[rig.Agent]:
    """An agent that has the keys of `user`."""
    with start_agent(user) as running:
        added = running.ssh_add("-s", user.module)
        assert added.returncode == 0, added.stderr + running.log
        yield running
        check_silent(running)


def test_keygen_lists_all_keys(user: rig.User) -> None:
    done = user.run("/usr/bin/ssh-keygen", "-D", user.module)
    assert (done.returncode, done.stderr) == (0, b"")
    listed = {line.split()[2]: material(line) for line in done.stdout.decode().splitlines()}
    assert listed == {label: material(user.public_key(label)) for label in LABELS}
    assert user.run("/usr/bin/ssh-keygen", "-l", "-f", "-", stdin=done.stdout).returncode == 0


@pytest.mark.parametrize("label", LABELS)
def test_login_with_provider(user: rig.User, sshd: rig.Sshd, label: str) -> None:
    sshd.authorize(user.public_key(label))
    before = len(user.askpass.questions())
    check_welcome(sshd.login(*provider(user), env=user.env))
    assert len(user.askpass.questions()) == before + 1


def test_login_by_settings_file(user: rig.User, sshd: rig.Sshd, tmp_path: Path) -> None:
    """The way of ~/.ssh/config; the connection stays open in a process that ssh forks after the login."""
    sshd.authorize(user.public_key("ssh"))
    control = sshd.directory / "control"
    settings = tmp_path / "config"
    settings.write_text(
        f'Host *\n  PKCS11Provider "{user.module}"\n'
        f'  ControlMaster auto\n  ControlPath "{control}"\n  ControlPersist 30\n'
    )
    options = ["-F", str(settings)]
    # ssh forks the master with its output: a file, so that nobody waits for that process to close a pipe
    first = sshd.command(*options)
    first.remove("none")
    first.remove("-F")
    with (tmp_path / "out").open("wb") as out:
        assert subprocess.run(first, env=user.env, stdout=out, stderr=out, check=False, timeout=60).returncode == 0
    assert (tmp_path / "out").read_text() == "welcome\n"
    user.askpass.now("not the PIN")  # the second login needs none
    try:
        check_welcome(sshd.login("-o", f'ControlPath="{control}"', env=user.env))
    finally:
        user.askpass.now(user.pin)
        sshd.login("-o", f'ControlPath="{control}"', "-O", "exit", env=user.env)


@pytest.mark.parametrize("label", LABELS)
def test_login_by_agent(user: rig.User, agent: rig.Agent, sshd: rig.Sshd, label: str) -> None:
    sshd.authorize(user.public_key(label))
    before = len(user.askpass.questions())
    check_welcome(sshd.login(*by_agent(agent), env=user.env))
    assert len(user.askpass.questions()) == before


def test_eight_logins_at_once(user: rig.User, agent: rig.Agent, sshd: rig.Sshd) -> None:
    """Each insists on one key, so that the agent changes keys all the time."""
    public = []
    for label in LABELS:
        path = sshd.directory / f"{label}.pub"
        path.write_text(user.public_key(label) + "\n")
        public.append(path)
    sshd.authorize(*(path.read_text() for path in public))
    logins = []
    for number in range(8):
        key = public[number % len(public)]
        command = sshd.command("-o", f'IdentityFile="{key}"', "-o", "IdentitiesOnly=yes", *by_agent(agent))
        logins.append(
            subprocess.Popen(command, env=user.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    assert [(*login.communicate(timeout=60), login.returncode) for login in logins] == [("welcome\n", "", 0)] * 8


def test_many_logins_in_a_row(user: rig.User, agent: rig.Agent, sshd: rig.Sshd) -> None:
    sshd.authorize(user.public_key("bigger"))
    for _ in range(10):
        check_welcome(sshd.login(*by_agent(agent), env=user.env))


def test_remove_and_add_again(user: rig.User, sshd: rig.Sshd) -> None:
    """`ssh-add -e` unloads the module; the next `-s` loads it in the same process or a new one."""
    sshd.authorize(user.public_key("ssh"))
    with start_agent(user) as agent:
        for _ in range(3):
            assert agent.ssh_add("-s", user.module).returncode == 0, agent.log
            assert len(agent.keys()) == len(LABELS)
            check_welcome(sshd.login(*by_agent(agent), env=user.env))
            assert agent.ssh_add("-e", user.module).returncode == 0, agent.log
            assert agent.keys() == []
        check_silent(agent)


def test_agent_test_signs_with_each_key(user: rig.User, agent: rig.Agent, tmp_path: Path) -> None:
    """`ssh-add -T` signs and verifies."""
    for label in LABELS:
        path = tmp_path / f"{label}.pub"
        path.write_text(user.public_key(label) + "\n")
        done = agent.ssh_add("-T", str(path))
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("label", LABELS)
def test_signed_file(user: rig.User, agent: rig.Agent, tmp_path: Path, label: str) -> None:
    """`ssh-keygen -Y sign`, as git signs commits; verified by ssh-keygen."""
    public = tmp_path / "key.pub"
    public.write_text(user.public_key(label) + "\n")
    signers = tmp_path / "signers"
    signers.write_text(f"me@here {public.read_text()}")
    keygen = "/usr/bin/ssh-keygen"
    env = {**user.env, "SSH_AUTH_SOCK": str(agent.socket)}
    sign: list[str | Path] = [keygen, "-q", "-Y", "sign", "-n", "file", "-f", public]
    made = subprocess.run(sign, input=b"data", env=env, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    signature = tmp_path / "sig"
    signature.write_bytes(made.stdout)
    verify = [keygen, "-q", "-Y", "verify", "-n", "file", "-f", str(signers), "-I", "me@here", "-s", str(signature)]
    assert subprocess.run(verify, input=b"data", check=False).returncode == 0
    assert subprocess.run(verify, input=b"Data", check=False, capture_output=True).returncode != 0


def test_certificate_authority(user: rig.User, tmp_path: Path) -> None:
    """`ssh-keygen -D MODULE -s CA.pub` signs somebody's key; ssh-keygen shows whose signature it is."""
    authority = tmp_path / "ca.pub"
    authority.write_text(user.public_key("ssh") + "\n")
    subject = tmp_path / "subject"
    keygen = "/usr/bin/ssh-keygen"
    assert user.run(keygen, "-q", "-t", "ed25519", "-N", "", "-f", subject).returncode == 0
    done = user.run(keygen, "-q", "-s", authority, "-D", user.module, "-I", "id", "-n", "me", f"{subject}.pub")
    assert done.returncode == 0, done.stderr
    shown = user.run(keygen, "-L", "-f", f"{subject}-cert.pub").stdout.decode()
    fingerprint = user.run(keygen, "-l", "-f", authority).stdout.decode().split()[1]
    assert f"Signing CA: ECDSA {fingerprint}" in shown


def test_wrong_pin_is_refused_and_counted_once(newcomer: rig.User, tabrmd: rig.Tabrmd, sshd: rig.Sshd) -> None:
    """Ssh asks again for each key that the server would take; the TPM sees the wrong PIN once."""
    newcomer.init()
    newcomer.generate("p384", "bigger")
    sshd.authorize(newcomer.public_key("ssh"), newcomer.public_key("bigger"))
    newcomer.askpass.now("654321")
    done = sshd.login(*provider(newcomer), env=newcomer.env)
    assert done.returncode == 255
    assert done.stdout == ""
    assert tabrmd.swtpm.lockout_counter() == 1
    newcomer.askpass.now(newcomer.pin)
    check_welcome(sshd.login(*provider(newcomer), env=newcomer.env))
    assert tabrmd.swtpm.lockout_counter() == 1


def test_agent_refuses_a_wrong_pin(newcomer: rig.User, tabrmd: rig.Tabrmd, sshd: rig.Sshd) -> None:
    newcomer.init()
    sshd.authorize(newcomer.public_key("ssh"))
    newcomer.askpass.now("654321")
    with start_agent(newcomer) as agent:
        for _ in range(2):  # the helper process has seen this PIN fail: it does not ask the TPM again
            assert agent.ssh_add("-s", newcomer.module).returncode != 0
            assert agent.keys() == []
        assert tabrmd.swtpm.lockout_counter() == 1
        newcomer.askpass.now(newcomer.pin)
        assert agent.ssh_add("-s", newcomer.module).returncode == 0, agent.log
        check_welcome(sshd.login(*by_agent(agent), env=newcomer.env))


def test_without_resource_manager(swtpm: rig.Swtpm, tmp_path: Path, sshd: rig.Sshd) -> None:
    """The TPM itself, with its three places for keys and sessions: ssh leaves nothing loaded."""
    user = rig.User(swtpm, tmp_path)
    user.init()
    user.generate("rsa2048", "work")
    sshd.authorize(user.public_key("work"))
    assert swtpm.loaded() == []
    for _ in range(5):
        check_welcome(sshd.login(*provider(user), env=user.env))
        assert swtpm.loaded() == []
