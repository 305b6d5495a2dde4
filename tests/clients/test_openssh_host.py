"""Sshd whose host key is in the token: it asks an agent, which the unit systemd/ssh-host-agent.service starts."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from clients.test_openssh import check_welcome, public_file
from rig.confined import confined
from rig.process import wait_until
from rig.recipe import Recipe
from rig.sshd import make_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "ssh-host-agent.service"
MODULE = "/usr/local/lib/pkcs11/p11tpm.so"
PLACE = "/run/ssh-host-agent"
PROMPT = "Enter passphrase for PKCS#11: "  # ssh-add writes it to a file, too


class Service:
    """The unit as systemd would start it for the user's module, with its socket in `directory`; `more` is a drop-in.

    With `can_write`, a directory, it is as confined as the unit says, and can write there only.
    """

    def __init__(self, user: rig.User, directory: Path, more: str = "", can_write: Path | None = None) -> None:
        # a module that is not installed has to be allowed
        agent = f"ExecStart=/usr/bin/ssh-agent -P {shlex.quote(os.path.realpath(user.module))}"
        places = {PLACE: str(directory), MODULE: shlex.quote(user.module), "ExecStart=/usr/bin/ssh-agent": agent}
        text = UNIT.read_text() + more
        for name, place in places.items():
            assert name in text
            text = text.replace(name, place)
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str
        unit.read_string(text)
        self._unit = unit["Service"]
        name, _, value = self._unit["Environment"].partition("=")
        self.socket = Path(value)
        asks = ("SSH_ASKPASS", "SSH_ASKPASS_REQUIRE")
        self._env = {**{name: value for name, value in user.env.items() if name not in asks}, name: value}
        self._before = confined(UNIT, can_write) if can_write else []
        self._pid = 0

    def start(self) -> str:
        """Follow the unit; gives what ssh-add complains of."""
        self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        started = self._run("ExecStart", Path(os.devnull))
        assert started.returncode == 0, started.stderr
        self._pid = int(re.findall(r"SSH_AGENT_PID=(\d+)", started.stdout)[0])
        added = self._run("ExecStartPost", Path(self._unit.get("StandardInput", os.devnull).removeprefix("file:")))
        return added.stderr.replace(PROMPT, "").strip()

    def _run(self, line: str, given: Path) -> subprocess.CompletedProcess[str]:
        with given.open() as stdin:
            return subprocess.run(
                [*self._before, *shlex.split(self._unit[line])],
                env=self._env,
                stdin=stdin,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                start_new_session=True,  # nobody's terminal
            )

    def stop(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGTERM)
            wait_until(lambda: not self.socket.exists(), "the end of the agent")
            self._pid = 0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """`service(user, drop_in, can_write)`: a Service that ends with the test."""
    made: list[Service] = []

    def make(user: rig.User, more: str = "", can_write: Path | None = None) -> Service:
        made.append(Service(user, tmp_path / "run", more, can_write))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def pin_from(file: Path) -> str:
    return f"[Service]\nStandardInput=file:{file}\n"


def set_up(user: rig.User, directory: Path) -> tuple[Recipe, str, str]:
    """The recipe, its first block done; the public host keys in a file and in the token."""
    user.init()
    file_key = make_key(directory / "ssh_host_ed25519_key").with_suffix(".pub").read_text()
    recipe = Recipe.of(user, "ssh-host", {"/etc/ssh": directory, PLACE: directory / "run"})
    recipe.run(0)
    return recipe, file_key, (directory / "ssh_host_tpm_key.pub").read_text()


def test_recipe(new_user: type[rig.User], tabrmd: rig.Tabrmd, tmp_path: Path, service: Callable[..., Service]) -> None:
    """Clients see the key in the token, and the old one; the agent may be restarted."""
    user = new_user(tabrmd, tmp_path)
    recipe, file_key, host_key = set_up(user, tmp_path)
    assert host_key.split()[:2] == user.public_key("host").split()[:2]
    agent = service(user, recipe.text(1), tmp_path)
    assert agent.start() == ""
    own = make_key(tmp_path / "own")
    with rig.Sshd(recipe.text(3), host_key) as sshd:
        sshd.authorize(own.with_suffix(".pub").read_text())
        for _ in range(2):
            check_welcome(sshd.login("-i", str(own)))
            agent.stop()
            assert sshd.login("-i", str(own)).returncode == 255
            assert agent.start() == ""
        check_welcome(sshd.login("-i", str(own)))
        known = tmp_path / "known"
        known.write_text(f"[127.0.0.1]:{sshd.port} {file_key}")
        learns = ("-o", f'UserKnownHostsFile="{known}"', "-o", "UpdateHostKeys=yes", "-i", str(own))
        check_welcome(sshd.login(*learns))
        wait_until(lambda: host_key.split()[1] in known.read_text(), "the new key in known_hosts")
        assert "UNPROTECTED" not in sshd.log


@pytest.mark.skipif(os.getuid() != 0, reason="only root's sshd lets other users in")
def test_new_key_learned(
    new_user: type[rig.User], tabrmd: rig.Tabrmd, tmp_path: Path, service: Callable[..., Service]
) -> None:
    """Not by root: sshd's privileged half proves the key, and that of 9.2 fails to with any agent's key but RSA."""
    user = new_user(tabrmd, tmp_path)
    recipe, file_key, host_key = set_up(user, tmp_path)
    assert service(user, recipe.text(1), tmp_path).start() == ""
    own = make_key(tmp_path / "own")
    with rig.Sshd(recipe.text(3), file_key) as sshd:
        sshd.authorize(own.with_suffix(".pub").read_text())
        sshd.directory.chmod(0o711)
        sshd.user = "nobody"
        known = tmp_path / "known"
        known.write_text(f"[127.0.0.1]:{sshd.port} {file_key}")
        command = sshd.command("-N", "-o", f'UserKnownHostsFile="{known}"', "-o", "UpdateHostKeys=yes", "-i", str(own))
        with subprocess.Popen(command, env=rig.clean_env()) as client:
            try:
                wait_until(lambda: host_key.split()[1] in known.read_text(), "the new key in known_hosts")
                assert client.poll() is None
            finally:
                client.kill()


def test_tpm_restart(
    new_user: type[rig.User], swtpm: rig.Swtpm, tmp_path: Path, service: Callable[..., Service]
) -> None:
    user = new_user(swtpm, tmp_path)
    user.init()
    agent = service(user, pin_from(user.pin_file))
    assert agent.start() == ""
    own = make_key(tmp_path / "own")
    public = public_file(user, "ssh", tmp_path)
    with rig.Sshd(f'HostKeyAgent "{agent.socket}"\nHostKey "{public}"\n', public.read_text()) as sshd:
        sshd.authorize(own.with_suffix(".pub").read_text())
        check_welcome(sshd.login("-i", str(own)))
        swtpm.restart()
        check_welcome(sshd.login("-i", str(own)))


def test_wrong_pin(
    new_user: type[rig.User], tabrmd: rig.Tabrmd, tmp_path: Path, service: Callable[..., Service]
) -> None:
    """The service does not start; systemd does not try again (Restart=on-abnormal)."""
    user = new_user(tabrmd, tmp_path)
    user.init()
    agent = service(user, pin_from(rig.write_secret(tmp_path / "wrong", "654321\n")))
    assert "agent refused operation" in agent.start()
    assert tabrmd.swtpm.lockout_counter() == 1
    agent.stop()
    agent = service(user, pin_from(user.pin_file))
    assert agent.start() == ""


def test_token_without_pin(tabrmd: rig.Tabrmd, tmp_path: Path, service: Callable[..., Service]) -> None:
    """Without the drop-in."""
    user = rig.User(tabrmd, tmp_path)
    user.p11tpm("token", "create", "--label", "host", "--no-pin")
    user.p11tpm("key", "generate", "--label", "host")
    agent = service(user)
    assert agent.start() == ""
    listed = subprocess.run(
        ["/usr/bin/ssh-add", "-L"],
        env=rig.clean_env(SSH_AUTH_SOCK=str(agent.socket)),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert listed.stdout.decode().split()[:2] == user.public_key("host").split()[:2]


def test_unit() -> None:
    """Systemd accepts it, and finds it well shut off: 10 is a service without any restriction."""
    analyze = "/usr/bin/systemd-analyze"
    verified = subprocess.run(
        [analyze, "verify", "--man=no", UNIT], capture_output=True, text=True, timeout=60, check=False
    )
    assert [line for line in verified.stderr.splitlines() if UNIT.name in line] == []
    assert verified.returncode == 0
    judged = subprocess.run(
        [analyze, "security", "--offline=yes", "--threshold=15", UNIT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout
