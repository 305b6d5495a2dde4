"""OpenSSH as it is: ssh, sftp, ssh-keygen, ssh-add and ssh-agent against a real sshd."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

import rig
from rig.recipe import Recipe
from rig.sshd import make_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = {"ssh": "p256", "bigger": "p384", "work": "rsa2048"}
LABELS = list(KEYS)
SOAK = bool(os.environ.get("P11TPM_SOAK"))
REST = 60 if SOAK else 12  # seconds; p11tpm lets go of the TPM after 10 of them
# the key exchange that takes the least time: what is looked at here is the signature
QUICK = ("-o", "KexAlgorithms=curve25519-sha256")


def provider(user: rig.User) -> tuple[str, str]:
    return "-o", f'PKCS11Provider="{user.module}"'


def by_agent(agent: rig.Agent) -> tuple[str, str]:
    return "-o", f'IdentityAgent="{agent.socket}"'


def start_agent(user: rig.User) -> rig.Agent:
    return rig.Agent(user.env, allow=os.path.realpath(user.module))


def add(agent: rig.Agent, user: rig.User) -> None:
    added = agent.ssh_add("-s", user.module)
    assert added.returncode == 0, added.stderr + agent.log


def check_silent(agent: rig.Agent) -> None:
    """The agent's log holds what ssh-agent says of itself, and nothing of the module."""
    assert [line for line in agent.log.splitlines() if not line.startswith(("SSH_AUTH_SOCK=", "echo Agent pid"))] == []


def check_welcome(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, "welcome\n", "")


def material(line: str) -> list[str]:
    """Key type and key of a public key line, without its comment."""
    return line.split()[:2]


def public_file(user: rig.User, label: str, directory: Path) -> Path:
    """The public key in a file, as OpenSSH's programs name a key."""
    path = directory / f"{label}.pub"
    path.write_text(user.public_key(label) + "\n")
    return path


@pytest.fixture(scope="module")
def user(new_user: type[rig.User], tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.User]:
    """A user with KEYS (labels and algorithms) for all tests of this file, which leave them alone."""
    with rig.Tabrmd(max_tries=32) as tpm:
        owner = new_user(tpm, tmp_path_factory.mktemp("user"))
        owner.init_keys(KEYS)
        yield owner


@pytest.fixture
def newcomer(new_user: type[rig.User], tabrmd: rig.Tabrmd, tmp_path: Path) -> rig.User:
    """A user without a token, on `tabrmd`."""
    return new_user(tabrmd, tmp_path)


@pytest.fixture
def agent(user: rig.User) -> Iterator[rig.Agent]:
    """An agent that has the keys of `user`."""
    with start_agent(user) as running:
        add(running, user)
        yield running
        check_silent(running)


@pytest.fixture(scope="module", autouse=True)
def resting(user: rig.User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[rig.Agent, float]]:
    """An agent that has signed, and since then (monotonic time) is left alone while the other tests run."""
    with start_agent(user) as running:
        add(running, user)
        assert running.ssh_add("-T", str(public_file(user, "ssh", tmp_path_factory.mktemp("rest")))).returncode == 0
        yield running, time.monotonic()


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
    # ssh forks the master with its output: a file, so that nobody waits for that process to close a pipe
    first = sshd.command("-F", str(settings))
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


def test_sixteen_logins_at_once(user: rig.User, agent: rig.Agent, sshd: rig.Sshd) -> None:
    """Each insists on one key, so that the agent changes keys all the time."""
    public = [public_file(user, label, sshd.directory) for label in LABELS]
    sshd.authorize(*(path.read_text() for path in public))
    logins = []
    for number in range(16):
        key = public[number % len(public)]
        command = sshd.command("-o", f'IdentityFile="{key}"', "-o", "IdentitiesOnly=yes", *by_agent(agent))
        logins.append(
            subprocess.Popen(command, env=user.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    assert [(*login.communicate(timeout=60), login.returncode) for login in logins] == [("welcome\n", "", 0)] * 16


def test_fifty_logins_in_a_row(user: rig.User, agent: rig.Agent, sshd: rig.Sshd) -> None:
    sshd.authorize(user.public_key("bigger"))
    for _ in range(50):
        check_welcome(sshd.login(*QUICK, *by_agent(agent), env=user.env))


def test_p521(newcomer: rig.User, sshd: rig.Sshd) -> None:
    """The longest key, in a token of its own: tpm2-pkcs11 spoils the list of keys with it."""
    newcomer.init(algorithm="p521")
    sshd.authorize(newcomer.public_key("ssh"))
    check_welcome(sshd.login(*provider(newcomer), env=newcomer.env))
    with start_agent(newcomer) as agent:
        add(agent, newcomer)
        check_welcome(sshd.login(*by_agent(agent), env=newcomer.env))
        check_silent(agent)


def test_sftp(user: rig.User, agent: rig.Agent, sshd: rig.Sshd, tmp_path: Path) -> None:
    sshd.authorize(user.public_key("ssh"))
    sent = tmp_path / "sent"
    sent.write_bytes(os.urandom(100_000))
    for name, how in (("one", by_agent(agent)), ("two", provider(user))):
        commands = f"put {sent} {tmp_path}/there\nget {tmp_path}/there {tmp_path}/{name}\n"
        done = sshd.sftp(*how, commands=commands, env=user.env)
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / name).read_bytes() == sent.read_bytes()


def test_remove_and_add_again(user: rig.User, sshd: rig.Sshd) -> None:
    """`ssh-add -e` unloads the module; the next `-s` loads it in the same process or a new one."""
    sshd.authorize(user.public_key("ssh"))
    with start_agent(user) as agent:
        for _ in range(2):
            add(agent, user)
            assert len(agent.keys()) == len(LABELS)
            check_welcome(sshd.login(*by_agent(agent), env=user.env))
            assert agent.ssh_add("-e", user.module).returncode == 0, agent.log
            assert agent.keys() == []
        check_silent(agent)


def test_agent_test_signs_with_each_key(user: rig.User, agent: rig.Agent, tmp_path: Path) -> None:
    """`ssh-add -T` signs and verifies."""
    for label in LABELS:
        done = agent.ssh_add("-T", str(public_file(user, label, tmp_path)))
        assert (done.returncode, done.stderr) == (0, "")


def test_agent_restart(user: rig.User, sshd: rig.Sshd) -> None:
    sshd.authorize(user.public_key("ssh"))
    with start_agent(user) as agent:
        for _ in range(2):
            add(agent, user)
            check_welcome(sshd.login(*by_agent(agent), env=user.env))
            agent.restart()
            assert agent.keys() == []
        assert agent.helpers() == []


def test_wrong_pin(newcomer: rig.User, tabrmd: rig.Tabrmd, sshd: rig.Sshd) -> None:
    """Ssh asks again for each key that the server would take; the TPM sees the wrong PIN once."""
    newcomer.init()
    newcomer.generate("p384", "bigger")
    sshd.authorize(newcomer.public_key("ssh"), newcomer.public_key("bigger"))
    newcomer.askpass.now("654321")
    done = sshd.login(*provider(newcomer), env=newcomer.env)
    assert (done.returncode, done.stdout) == (255, "")
    assert "PIN incorrect" in done.stderr
    assert tabrmd.swtpm.lockout_counter() == 1
    newcomer.askpass.now(newcomer.pin)
    check_welcome(sshd.login(*provider(newcomer), env=newcomer.env))
    assert tabrmd.swtpm.lockout_counter() == 1


def test_wrong_pin_for_the_agent(newcomer: rig.User, tabrmd: rig.Tabrmd, sshd: rig.Sshd) -> None:
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


def test_without_resource_manager(new_user: type[rig.User], swtpm: rig.Swtpm, tmp_path: Path, sshd: rig.Sshd) -> None:
    """The TPM itself, with its three places for keys and sessions: ssh leaves nothing loaded."""
    user = new_user(swtpm, tmp_path)
    user.init()
    user.generate("rsa2048", "work")
    sshd.authorize(user.public_key("work"))
    assert swtpm.loaded() == []
    for _ in range(3):
        check_welcome(sshd.login(*provider(user), env=user.env))
        assert swtpm.loaded() == []


def test_tpm_restart_under_an_agent(new_user: type[rig.User], swtpm: rig.Swtpm, tmp_path: Path, sshd: rig.Sshd) -> None:
    """The agent is not told; it signs on with the PIN of before."""
    user = new_user(swtpm, tmp_path)
    user.init()
    sshd.authorize(user.public_key("ssh"))
    with start_agent(user) as agent:
        add(agent, user)
        for _ in range(2):
            check_welcome(sshd.login(*by_agent(agent), env=user.env))
            swtpm.restart()
        swtpm.power_off()
        assert sshd.login(*by_agent(agent), env=user.env).returncode == 255
        swtpm.restart()
        check_welcome(sshd.login(*by_agent(agent), env=user.env))


def test_recipe(newcomer: rig.User, tmp_path: Path) -> None:
    newcomer.init()
    config, way_in = tmp_path / "config", make_key(tmp_path / "way_in")
    with rig.Sshd() as sshd, start_agent(newcomer) as agent:
        sshd.authorize(way_in.with_suffix(".pub").read_text())
        usual = f"""IdentityFile "{way_in}"
            HostName 127.0.0.1
            Port {sshd.port}
            UserKnownHostsFile "{sshd.directory}/known_hosts"
            """
        config.write_text(usual)
        home = {"ssh host.": f"ssh -F {config} host.", ".ssh/authorized_keys": sshd.directory / "authorized_keys"}
        recipe = Recipe.of(newcomer, "ssh", home)
        recipe.run(0)
        sshd.authorize(newcomer.public_key("laptop"))
        config.write_text(usual + recipe.text(1))
        login = ["/usr/bin/ssh", "-F", config, "host.example.org", "echo welcome"]
        done = newcomer.run(*login)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"welcome\n", b"")
        newcomer.env["SSH_AUTH_SOCK"] = str(agent.socket)
        asked = len(newcomer.askpass.questions())
        assert os.uname().nodename in recipe.run(2)
        assert len(newcomer.askpass.questions()) == asked + 1
        check_silent(agent)


def test_agent_left_idle(user: rig.User, resting: tuple[rig.Agent, float], sshd: rig.Sshd) -> None:
    """It lets go of the TPM, and comes back when it is asked."""
    agent, since = resting
    time.sleep(max(0, since + REST - time.monotonic()))
    [helper] = agent.helpers()
    assert "p11tpm-idle\n" not in [name.read_text() for name in helper.glob("task/*/comm")]
    sshd.authorize(user.public_key("ssh"))
    check_welcome(sshd.login(*by_agent(agent), env=user.env))
    check_silent(agent)
