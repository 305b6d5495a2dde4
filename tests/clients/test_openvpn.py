"""OpenVPN by its recipe: a tunnel to a real gateway, both in networks of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import rig
from rig.authority import Authority
from rig.errors import Errors
from rig.network import FAR, Network
from rig.openvpn import CONNECTED, INSIDE, Gateway, OpenVpn
from rig.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REQUEST, SETTINGS, UNIT = range(3)  # blocks of the recipe
ALGORITHMS = {"ec": "p256", "rsa": "rsa2048"}
VERSIONS = {"TLS 1.2": ("TLSv1.2", "--tls-version-max", "1.2"), "TLS 1.3": ("TLSv1.3", "--tls-version-min", "1.3")}


class Office:
    """A user of a company's VPN, who has done what the recipe says in `directory`."""

    def __init__(self, user: rig.User, directory: Path, network: Network, algorithm: str = "p256") -> None:
        self.user = user
        self.directory = directory
        self.network = network
        self.authority = Authority(directory)
        self.errors = Errors(user)
        (directory / "client").mkdir()
        user.create_token()
        places = {
            "/etc/openvpn/client": directory / "client",
            "/etc/ssl/certs/company.pem": self.authority.certificate,
            "vpn.example.com": FAR,
            "--label vpn": f"--label vpn --algorithm {algorithm}",
        }
        self.recipe = Recipe.of(user, "openvpn", places)
        self.recipe.run(REQUEST, directory)
        self.authority.certify(directory / "laptop.csr")
        self.recipe.run(SETTINGS, directory)

    def gateway(self, *options: str) -> Gateway:
        return Gateway(self.directory, self.authority, self.network, *options)

    def client(self, pin: str = "", **env: str) -> OpenVpn:
        return OpenVpn(self.directory / "client" / "office.conf", {**self.user.env, **env}, pin or self.user.pin)


@pytest.fixture(scope="module", params=ALGORITHMS)
def office(
    request: pytest.FixtureRequest, new_user: type[rig.User], network: Network, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Office]:
    with rig.Tabrmd(max_tries=32) as tpm:
        directory = tmp_path_factory.mktemp("office")
        yield Office(new_user(tpm, directory), directory, network, ALGORITHMS[request.param])


@pytest.fixture
def own_office(network: Network, swtpm: rig.Swtpm, tmp_path: Path) -> Office:
    """One with a TPM of its own, which nobody stands in front of."""
    return Office(rig.User(swtpm, tmp_path), tmp_path, network)


@pytest.mark.parametrize("version", VERSIONS)
def test_tunnel(office: Office, version: str) -> None:
    name, *options = VERSIONS[version]
    with office.gateway(*options), office.client() as client:
        client.until(CONNECTED)
        assert client.asked == 1
        assert office.network.reaches(INSIDE)
        assert f"Control Channel: {name}" in client.log
        assert office.errors.lines() == []


def test_reconnect_and_restart(office: Office) -> None:
    """The PIN is asked for once in a process."""
    with office.gateway():
        for _ in range(2):
            with office.client() as client:
                client.until(CONNECTED)
                client.reconnect()
                assert office.network.reaches(INSIDE)
                assert client.asked == 1


def test_wrong_pin(own_office: Office, swtpm: rig.Swtpm) -> None:
    """OpenVPN asks three times for each of its attempts; the TPM sees that PIN once in a process."""
    with own_office.gateway():
        with own_office.client("654321") as client:
            for _ in range(3):
                client.until("RECONNECTING,tls-error")
            assert client.asked == 9
        assert swtpm.lockout_counter() == 1
        with own_office.client() as client:
            client.until(CONNECTED)


def test_service_and_a_restart_of_the_tpm(own_office: Office, swtpm: rig.Swtpm) -> None:
    """The unit's credential: nobody is asked, and the tunnel comes back after the TPM has lost all that was loaded."""
    [line] = [line for line in own_office.recipe.text(UNIT).splitlines() if line.startswith("LoadCredential=")]
    name, _, source = line.partition("=")[2].partition(":")
    credentials = own_office.directory / "credentials"
    credentials.mkdir()
    (credentials / name).symlink_to(source)
    with own_office.gateway(), own_office.client(CREDENTIALS_DIRECTORY=str(credentials)) as client:
        client.until(CONNECTED)
        swtpm.restart()
        client.reconnect()
        assert own_office.network.reaches(INSIDE)
        assert client.asked == 0
        assert own_office.errors.lines() == []
