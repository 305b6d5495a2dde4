"""wpa_supplicant by its recipe: EAP-TLS with a real hostapd, over a wire and, by eapol_test, as in Wi-Fi.

hostapd is on the far side of a wire whose end is in a network namespace, which takes root. eapol_test is
wpa_supplicant's own EAP code without a network card: it talks to hostapd as an access point would, by RADIUS.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from p11tpm.cli import recipe
from rig.authority import Authority
from rig.errors import Errors
from rig.hostapd import Hostapd
from rig.process import wait_until
from rig.program import said
from rig.recipe import Recipe
from rig.supplicant import NO_KEY, Supplicant
from rig.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REQUEST, IMPORT, UNIT, WIRED, MANAGED = range(5)  # blocks of the recipe
KEYS = {"wifi": "p256", "work": "rsa2048"}
VERSIONS = {"TLS 1.2": "TLSv1.2", "TLS 1.3": "TLSv1.3"}
COMBINATIONS = [
    pytest.param(label, version, id=f"{algorithm}, {version}")
    for label, algorithm in KEYS.items()
    for version in VERSIONS
]
SOAK = bool(os.environ.get("P11TPM_SOAK"))
OURS = re.compile(r"p11tpm\[\d+\]")  # as every line that we log begins
REFUSED = "PKCS11_get_private_key returned NULL"  # libp11, on stderr; eapol_test itself keeps its output for later


def with_lines(settings: str, *lines: str, without: str = "no line") -> str:
    """Settings with more lines in their network, and without those that `without` describes."""
    kept = [line for line in settings.splitlines() if not re.match(rf" *({without})\b", line)]
    return "\n".join([*kept[:-1], *lines, "}", ""])


class Machine:
    """One that has to get into the company's network: `user` has done what the recipe says, for each of `keys`.

    `tidy` is called after a program that ends without C_Finalize, for a TPM without a resource manager.
    """

    def __init__(
        self, user: rig.User, authority: Authority, keys: dict[str, str], tidy: Callable[[], object] = lambda: None
    ) -> None:
        self.user = user
        self.authority = authority
        self.settings_file = user.directory / "wpa.conf"
        self.errors = Errors(user)
        user.create_token()
        for label, algorithm in keys.items():
            recipe = self._recipe({"p256": algorithm, "wifi": label})
            recipe.run(REQUEST)
            tidy()
            authority.certify(user.directory / "host.csr")
            recipe.run(IMPORT)
        self.recipe = self._recipe()
        name, _, value = self.recipe.text(UNIT).partition("Environment=")[2].strip().partition("=")
        self.env = {**user.env, name: value}

    def _recipe(self, changes: dict[str, str] | None = None) -> Recipe:
        places = {
            "/run/wpa_supplicant": self.user.directory / "s",
            "/etc/ssl/certs/company.pem": self.authority.certificate,
        }
        return Recipe.of(self.user, "wpa_supplicant", {**places, **(changes or {})})

    def wired(self, label: str = "wifi", version: str = "TLS 1.2") -> str:
        """The recipe's settings; TLS 1.3 is what has to be asked for."""
        settings = self.recipe.text(WIRED).replace("object=wifi", f"object={label}")
        return with_lines(settings, *(['phase1="tls_disable_tlsv1_3=0"'] if version == "TLS 1.3" else []))

    def wifi(self, label: str = "wifi", version: str = "TLS 1.2") -> str:
        lines = ('ssid="company"', "key_mgmt=WPA-EAP")
        return with_lines(self.wired(label, version), *lines, without="ctrl_interface|ap_scan|key_mgmt|eapol_flags")

    def supplicant(self, settings: str, wire: Wire) -> Supplicant:
        self.settings_file.write_text(settings)
        return Supplicant(self.settings_file, wire, self.env)

    def eapol_test(self, settings: str, server: Hostapd) -> list[str | Path]:
        """The command for one authentication, by a process of its own."""
        self.settings_file.write_text(settings)
        return ["/usr/bin/eapol_test", "-c", self.settings_file, "-p", str(server.port), "-s", server.secret]

    def authenticate(self, settings: str, server: Hostapd) -> str:
        """What eapol_test tells of a success."""
        return said(self.eapol_test(settings, server), self.env, self.user.directory)


def check_silent(machine: Machine, log: str) -> None:
    assert not OURS.search(log)
    assert machine.errors.lines() == []


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def radius(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostapd]:
    with Hostapd(tmp_path_factory.mktemp("radius"), authority) as server:
        yield server


@pytest.fixture(scope="module")
def wire(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A wire with a switch at its far end that opens its port to who is certified."""
    if os.getuid() != 0:
        pytest.skip("only root makes network namespaces")
    with Wire() as cable, Hostapd(tmp_path_factory.mktemp("switch"), authority, cable):
        yield cable


@pytest.fixture(scope="module")
def machine(
    new_user: Callable[..., rig.User], authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """With both keys, for all tests; nobody tries a wrong PIN on it."""
    with rig.Tabrmd(max_tries=32) as tpm:
        yield Machine(new_user(tpm, tmp_path_factory.mktemp("m")), authority, KEYS)


@pytest.fixture
def own_machine(new_user: Callable[..., rig.User], tabrmd: rig.Tabrmd, authority: Authority, tmp_path: Path) -> Machine:
    """With a key, on `tabrmd`, for one test."""
    return Machine(new_user(tabrmd, tmp_path), authority, {"wifi": "p256"})


@pytest.mark.parametrize(("label", "version"), COMBINATIONS)
def test_wifi(machine: Machine, radius: Hostapd, label: str, version: str) -> None:
    told = machine.authenticate(machine.wifi(label, version), radius)
    assert f"SSL: Using TLS version {VERSIONS[version]}" in told
    check_silent(machine, told)


@pytest.mark.parametrize("name", ["pkcs11:object=wifi", "label_wifi"], ids=["URI", "label"])
def test_settings_of_the_engine(machine: Machine, radius: Hostapd, name: str) -> None:
    """The older way, with the PIN among the settings."""
    engine = ("engine=1", 'engine_id="pkcs11"', f'key_id="{name}"', f'cert_id="{name}"', f'pin="{machine.user.pin}"')
    settings = with_lines(machine.wifi(), *engine, without="private_key|client_cert")
    check_silent(machine, machine.authenticate(settings, radius))


def test_network_manager(machine: Machine, radius: Hostapd) -> None:
    """NetworkManager's names for the settings, and the values that it hands on as they are."""
    words = shlex.split(machine.recipe.blocks[MANAGED]["text"].replace("\\\n", ""))
    given = dict(zip(words[3::2], words[4::2], strict=True))
    flags = [value for name, value in given.items() if name.endswith("password-flags")]
    assert flags == ["not-required"] * 2  # else it adds "?pin-value=" to the URI
    names = {name.removeprefix("802-1x.").replace("-", "_"): value for name, value in given.items()}
    same = ("identity", "ca_cert", "domain_suffix_match", "client_cert", "private_key")
    lines = [f'{name}="{names[name]}"' for name in same]
    settings = "\n".join(["network={", 'ssid="company"', "key_mgmt=WPA-EAP", "eap=TLS", *lines, "}", ""])
    check_silent(machine, machine.authenticate(settings, radius))


def test_wired_and_restarted(machine: Machine, wire: Wire) -> None:
    for label, version in (("wifi", "TLS 1.2"), ("work", "TLS 1.3")):
        with machine.supplicant(machine.wired(label, version), wire) as door:
            door.until()
            assert door.is_in()
            assert door.status()["eap_tls_version"] == VERSIONS[version]
            check_silent(machine, door.log)
            door.kill()


@pytest.mark.parametrize("key", ["token", "file"], ids=["key in the token", "key in a file"])
def test_fifty_reauthentications(machine: Machine, wire: Wire, key: str) -> None:
    """The times of both compare the token with a file."""
    settings = machine.wired()
    if key == "file":
        certificate, private = machine.authority.pair("host")
        settings = with_lines(
            settings, f'client_cert="{certificate}"', f'private_key="{private}"', without="private_key|client_cert"
        )
    with machine.supplicant(settings, wire) as door:
        door.until()
        for _ in range(50):
            door.again()
        assert door.is_in()
        check_silent(machine, door.log)


def test_tpm_restarted(
    new_user: Callable[..., rig.User], swtpm: rig.Swtpm, authority: Authority, wire: Wire, tmp_path: Path
) -> None:
    """All that it had loaded is gone; also, a supplicant may be there before the TPM."""
    machine = Machine(new_user(swtpm, tmp_path), authority, {"wifi": "p256"}, swtpm.flush)
    swtpm.restart()
    with machine.supplicant(machine.wired(), wire) as door:
        door.until()
        for _ in range(3):
            swtpm.restart()
            door.again()
        check_silent(machine, door.log)
    swtpm.power_off()
    with machine.supplicant(machine.wired(), wire) as door:
        door.until(NO_KEY)
        swtpm.restart()
        door.again("reassociate")
        assert door.is_in()


def test_wrong_pin(own_machine: Machine, tabrmd: rig.Tabrmd, wire: Wire) -> None:
    """The supplicant tries it again and again, the TPM sees it once; the right one is taken without a restart."""
    rounds = 40 if SOAK else 1
    user = own_machine.user
    rig.write_secret(user.pin_file, "654321")
    with own_machine.supplicant(own_machine.wired(), wire) as door:
        door.until(NO_KEY)
        for _ in range(rounds):
            door.again("reassociate", NO_KEY)
        assert not door.is_in()
        assert door.log.count("PIN incorrect") == rounds + 1
        assert tabrmd.swtpm.lockout_counter() == 1
        rig.write_secret(user.pin_file, user.pin)
        door.again("reassociate")
        assert door.is_in()
        check_silent(own_machine, door.log)
    assert tabrmd.swtpm.lockout_counter() == 1


def test_wrong_pin_in_many_processes(own_machine: Machine, tabrmd: rig.Tabrmd, radius: Hostapd) -> None:
    """The token has five tries; then nobody asks the TPM, until that forgives one."""
    user = own_machine.user
    rig.write_secret(user.pin_file, "654321")
    command = own_machine.eapol_test(own_machine.wifi(), radius)
    for number in range(40 if SOAK else 7):
        process = rig.Process(command, user.directory / f"{number}.log", own_machine.env)
        wait_until(lambda process=process: REFUSED in process.output(), REFUSED)
        process.kill()
    assert tabrmd.swtpm.lockout_counter() == 5
    rig.write_secret(user.pin_file, user.pin)
    tabrmd.swtpm.set_lockout(32, recovery_seconds=1)
    wait_until(lambda: tabrmd.swtpm.lockout_counter() < 5, "the TPM forgiving a try")
    check_silent(own_machine, own_machine.authenticate(own_machine.wifi(), radius))


def test_unit(tmp_path: Path) -> None:
    """Systemd takes what the recipe adds to the unit."""
    added = recipe.Recipe("wpa_supplicant", {"MODULE": "/usr/local/lib/pkcs11/p11tpm.so"}).blocks[UNIT][2]
    place = tmp_path / "wpa_supplicant.service.d"
    place.mkdir()
    (place / "p11tpm.conf").write_text(added)
    unit = tmp_path / "wpa_supplicant.service"
    lines = Path("/lib/systemd/system/wpa_supplicant.service").read_text().splitlines(keepends=True)
    unit.write_text("".join(line for line in lines if "bus" not in line.lower()))  # not every machine has D-Bus's
    env = rig.clean_env(SYSTEMD_UNIT_PATH=f"{tmp_path}:")
    assert said(["/usr/bin/systemd-analyze", "verify", "--man=no", unit], env, tmp_path) == ""
