"""Programs that give no PIN: it comes from the setting `pin-file`, or from a systemd credential."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

import rig
from clients.test_java import IN_TOKEN, JVM, PROVIDER
from clients.test_openssl import CONFIG, ENGINE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENTS = ("pkcs11-tool", "p11tool", "openssl engine", "keytool", "ssh")


class Service:
    """A user whose programs have nobody who could type a PIN."""

    def __init__(self, tpm: rig.Tabrmd, sshd: rig.Sshd, directory: Path) -> None:
        self.user = rig.User(tpm, directory)
        self.user.init()
        self._tpm = tpm
        self._sshd = sshd
        self._directory = directory
        sshd.authorize(self.user.public_key("ssh"))
        self.pin_file = directory / "service.pin"
        self._log = directory / "log"
        self.settings = directory / "p11tpm.conf"
        module = self.user.module
        self.java = self.file("pkcs11.cfg", f'name = token\nlibrary = "{module}"\nslotListIndex = 0\n')
        text = CONFIG.format(engine=ENGINE, module=module, more="")
        self.user.env["OPENSSL_CONF"] = str(self.file("openssl.cnf", text))
        self.data = self.file("data", "what is signed")
        self.uri = "pkcs11:object=ssh;type=private"
        self.good()

    def file(self, name: str, text: str) -> Path:
        return rig.write_secret(self._directory / name, text)

    def good(self) -> None:
        """Settings and PIN file as they should be."""
        self.pin_file.unlink(missing_ok=True)
        self.write(self.user.pin)
        self.configure(f"pin-file = {self.pin_file}\n")
        self._log.unlink(missing_ok=True)

    def write(self, pin: str) -> None:
        rig.write_secret(self.pin_file, pin)

    def configure(self, line: str) -> None:
        rig.write_secret(self.settings, f"log = {self._log}\n{line}")

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def counted(self) -> int:
        """Wrong PINs that the TPM has seen."""
        return self._tpm.swtpm.lockout_counter()

    def command(self, client: str) -> list[str | Path]:
        """What uses the private key, and gives no PIN."""
        module = self.user.module
        out = self._directory / "out"
        out.unlink(missing_ok=True)
        engine = ("-engine", "pkcs11", "-keyform", "engine", "-sign", self.uri)
        store = ("-protected", "-keystore", "NONE", "-storetype", "PKCS11", *PROVIDER, self.java)
        pair = ("-genkeypair", "-alias", "java", "-dname", "CN=java", "-keyalg", "EC", *IN_TOKEN)
        sign = ("--sign", "--mechanism", "ECDSA-SHA256", "--label", "ssh")
        return {
            "pkcs11-tool": ["pkcs11-tool", "--module", module, "--login", *sign, "-i", self.data, "-o", out],
            "p11tool": ["p11tool", "--provider", module, "--login", "--test-sign", self.uri],
            "openssl engine": ["openssl", "dgst", "-sha256", *engine, "-out", out, self.data],
            "keytool": ["keytool", *JVM, *pair, *store],
            "ssh": self._sshd.command("-o", f'PKCS11Provider="{module}"'),
        }[client]

    def run(self, client: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Have a program use the key; it asks nobody."""
        asked = len(self.user.askpass.questions())
        done = subprocess.run(
            self.command(client),
            env={**self.user.env, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            start_new_session=True,  # no terminal
        )
        assert len(self.user.askpass.questions()) == asked
        assert "p11tpm" not in done.stderr.replace(str(self._directory), "").replace(self.user.module, "")
        if client == "keytool" and done.returncode == 0:
            tool = ("pkcs11-tool", "--module", self.user.module, "--login", "--delete-object", "--label", "java")
            for kind in ("privkey", "cert"):
                self.user.run(*tool, "--type", kind)
        return done


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, sshd: rig.Sshd) -> Iterator[Service]:
    with rig.Tabrmd(max_tries=32) as tpm:
        yield Service(tpm, sshd, tmp_path_factory.mktemp("service"))


@pytest.fixture
def service(shared: Service) -> Service:
    """A service whose settings and PIN file are as at its start, whatever the last test did."""
    shared.good()
    return shared


@pytest.mark.parametrize("client", CLIENTS)
def test_no_question(service: Service, client: str) -> None:
    done = service.run(client)
    assert (done.returncode, service.log) == (0, ""), done.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_wrong_pin_in_the_file(service: Service, client: str) -> None:
    """Some try again and again: the TPM sees the first time only. The program's next start has the right PIN."""
    before = service.counted
    service.write("654321")
    assert service.run(client).returncode != 0
    assert service.counted == before + 1
    service.write(service.user.pin)
    assert service.run(client).returncode == 0
    assert service.counted == before + 1


@pytest.mark.parametrize(
    ("client", "fault"), [*((client, "missing") for client in CLIENTS), ("ssh", "open to others"), ("ssh", "empty")]
)
def test_file(service: Service, client: str, fault: str) -> None:
    """What is wrong with it is in the log, and the TPM sees no PIN."""
    before = service.counted
    spoil = {
        "missing": service.pin_file.unlink,
        "open to others": lambda: service.pin_file.chmod(0o644),
        "empty": lambda: service.write(""),
    }
    spoil[fault]()
    assert service.run(client).returncode != 0
    assert service.counted == before
    lines = service.log.splitlines()
    assert lines
    assert all(f"C_Login: CKR_FUNCTION_FAILED: {service.pin_file}: " in line for line in lines)


@pytest.mark.parametrize("client", CLIENTS)
def test_credential_of_systemd(service: Service, client: str, tmp_path: Path) -> None:
    """As `LoadCredential=p11tpm.pin:...` makes it for a service of another user than root: mode 0440."""
    service.configure("")
    rig.write_secret(tmp_path / "p11tpm.pin", service.user.pin + "\n").chmod(0o440)
    service.pin_file.unlink()
    done = service.run(client, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert (done.returncode, service.log) == (0, ""), done.stderr


def test_changed_pin(service: Service) -> None:
    """Who sets a new PIN writes it into the file, and each program has it from its next start on."""
    user, before = service.user, service.counted
    change = ("/usr/bin/pkcs11-tool", "--module", user.module, "--login", "--change-pin")
    done = user.run(*change, "--pin", user.pin, "--new-pin", "another")
    assert done.returncode == 0, done.stderr
    assert service.run("p11tool").returncode != 0
    assert service.counted == before + 1
    user.pin = "another"
    service.good()
    assert service.run("openssl engine").returncode == 0
    assert service.run("ssh").returncode == 0


def test_agent(service: Service) -> None:
    """ssh-agent takes no token with a PIN without being given one: what is typed counts, as ever."""
    user, before = service.user, service.counted
    with rig.Agent(user.env, allow=os.path.realpath(user.module)) as agent:
        user.askpass.now("")
        assert agent.ssh_add("-s", user.module).returncode != 0
        assert service.counted == before
        user.askpass.now("654321")
        assert agent.ssh_add("-s", user.module).returncode != 0
        assert service.counted == before + 1
        user.askpass.now(user.pin)
        assert agent.ssh_add("-s", user.module).returncode == 0, agent.log
