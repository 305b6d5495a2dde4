"""strongSwan by its recipe: pki, and charon before a real gateway, both in networks of their own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import rig
from rig.authority import Authority
from rig.charon import INSIDE, Charon, gateway
from rig.errors import Errors
from rig.network import FAR, Network
from rig.process import write_secret
from rig.program import openssl
from rig.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLUGIN, REQUEST, SETTINGS, _, INITIATE = range(5)  # blocks of the recipe
ALGORITHMS = {"ec": "p256", "rsa": "rsa2048"}
CERTIFIED = "subjectAltName=DNS:laptop.example.com"


class Office:
    """A user of a company's VPN, who has done what the recipe says in `directory`; a gateway waits at FAR."""

    def __init__(self, user: rig.User, directory: Path, network: Network, algorithm: str = "p256") -> None:
        self.user = user
        self.directory = directory
        self.network = network
        self.authority = Authority(directory)
        self.errors = Errors(user)
        user.create_token()
        places = {
            "/etc/swanctl": self._swanctl(),
            "remote_addrs = vpn.example.com": f"remote_addrs = {FAR}",
            "10.1.0.0/16": "198.19.0.0/24",
            "--label vpn": f"--label vpn --algorithm {algorithm}",
        }
        self.recipe = Recipe.of(user, "strongswan", places)
        plugin = directory / "plugin.conf"
        plugin.write_text(self.recipe.text(PLUGIN))
        self._settings = f"include /etc/strongswan.conf\ninclude {plugin}\n"
        user.env["STRONGSWAN_CONF"] = str(write_secret(directory / "pki.conf", self._settings))

    def _swanctl(self) -> Path:
        """The directory of swanctl, as Debian has it, with the company's certificate."""
        settings = self.directory / "swanctl"
        for name in ("conf.d", "x509ca"):
            (settings / name).mkdir(parents=True)
        (settings / "swanctl.conf").write_text("include conf.d/*.conf\n")
        (settings / "x509ca" / "company.pem").write_bytes(self.authority.certificate.read_bytes())
        return settings

    def enrol(self) -> None:
        self.recipe.run(REQUEST, self.directory)
        self.authority.certify(self.directory / "laptop.csr", CERTIFIED)
        self.recipe.run(SETTINGS, self.directory)

    def gateway(self) -> Charon:
        directory = self.directory / "gateway"
        directory.mkdir(exist_ok=True)
        return gateway(directory, self.authority, self.network)

    def charon(self) -> Charon:
        """The user's own, which the recipe's commands find from now on."""
        charon = Charon(self.directory, self._settings, self.user.env)
        self.user.env.update(charon.env)
        return charon

    def connect(self) -> None:
        """As the recipe says, and see that the tunnel is there."""
        self.recipe.run(INITIATE, self.directory)
        assert self.network.reaches(INSIDE)


@pytest.fixture(scope="module", params=ALGORITHMS)
def office(
    request: pytest.FixtureRequest, new_user: type[rig.User], network: Network, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Office]:
    with rig.Tabrmd(max_tries=32) as tpm:
        directory = tmp_path_factory.mktemp("office")
        made = Office(new_user(tpm, directory), directory, network, ALGORITHMS[request.param])
        made.enrol()
        yield made


@pytest.fixture
def own_office(network: Network, swtpm: rig.Swtpm, tmp_path: Path) -> Office:
    """One with a TPM of its own, which nobody stands in front of."""
    return Office(rig.User(swtpm, tmp_path), tmp_path, network)


def test_tunnel_and_a_restart(office: Office) -> None:
    with office.gateway():
        for _ in range(2):
            with office.charon() as charon:
                office.connect()
                charon.swanctl("--terminate", "--ike", "office")
                office.connect()
                assert "authentication of 'laptop.example.com' (myself)" in charon.log
    assert office.errors.lines() == []


def test_pki_issues(own_office: Office) -> None:
    """The key in the token as that of an authority: its own certificate, and one for somebody else."""
    directory = own_office.directory
    own_office.recipe.run(REQUEST, directory)
    _, key = own_office.authority.pair("other")
    openssl("pkey", "-in", key, "-pubout", "-out", directory / "other.pub")
    [listed] = json.loads(own_office.user.p11tpm("key", "list", "--json"))
    with_pin = ("/bin/sh", "-c", f"\"$@\" < '{own_office.user.pin_file}'", "sh", "/usr/bin/pki")
    ca = ("--self", "--ca", "--type", "priv", "--keyid", listed["id"], "--dn", "CN=root", "--outform", "pem")
    (directory / "root.pem").write_bytes(own_office.user.run(*with_pin, *ca).stdout)
    from_ca = ("--issue", "--cacert", directory / "root.pem", "--cakeyid", listed["id"], "--dn", "CN=other")
    told = own_office.user.run(*with_pin, *from_ca, "--in", directory / "other.pub", "--outform", "pem")
    (directory / "issued.pem").write_bytes(told.stdout)
    openssl("verify", "-CAfile", directory / "root.pem", directory / "issued.pem")


def test_wrong_pin_of_pki(own_office: Office, swtpm: rig.Swtpm) -> None:
    with pytest.raises(AssertionError, match="PIN_INCORRECT"):
        own_office.recipe.run(REQUEST, own_office.directory, pin="654321")
    assert swtpm.lockout_counter() == 1


def test_wrong_pin(own_office: Office, swtpm: rig.Swtpm) -> None:
    """The daemon is told to read its settings again and again; the TPM sees that PIN once."""
    own_office.enrol()
    settings = own_office.directory / "swanctl" / "conf.d" / "office.conf"
    good = settings.read_text()
    settings.write_text(good.replace(f'pin = "{own_office.user.pin}"', 'pin = "654321"'))
    with own_office.gateway(), own_office.charon() as charon:
        for _ in range(3):
            with pytest.raises(AssertionError, match="loading private key from token failed"):
                own_office.recipe.run(INITIATE, own_office.directory)
        assert swtpm.lockout_counter() == 1
        settings.write_text(good)
        own_office.connect()
        assert "login to 'p11tpm':1 failed: PIN_INCORRECT" in charon.log


def test_restart_of_the_tpm(own_office: Office, swtpm: rig.Swtpm) -> None:
    own_office.enrol()
    with own_office.gateway(), own_office.charon() as charon:
        own_office.connect()
        charon.swanctl("--terminate", "--ike", "office")
        swtpm.restart()
        own_office.connect()
    assert own_office.errors.lines() == []
