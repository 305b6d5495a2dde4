"""OpenSSL's provider for PKCS#11 by its recipe: in Debian 12 it comes from the backports, so it may not be there."""

from __future__ import annotations

from pathlib import Path

import pytest

import rig
from rig.errors import Errors
from rig.process import free_port
from rig.program import openssl, said
from rig.recipe import Recipe
from rig.service import Service

SETTINGS, KEY, SERVER = range(3)  # blocks of the recipe
ALGORITHMS = {"ec": "p256", "rsa": "rsa2048"}
CURL = ("/usr/bin/curl", "--silent", "--show-error", "--fail")
PROGRAM = "/usr/bin/openssl"
pytestmark = pytest.mark.skipif(
    not list(Path("/usr/lib").glob("*/ossl-modules/pkcs11.so")), reason="there is no pkcs11-provider here"
)


class Host:
    """Somebody with a server whose certificate is that of a key in the token, as the recipe says."""

    def __init__(self, user: rig.User, algorithm: str) -> None:
        self.user = user
        self.directory = user.directory
        self.errors = Errors(user)
        self.port = free_port()
        user.create_token()
        self.settings = user.directory / "openssl.cnf"
        places = {
            "/etc/p11tpm/openssl.cnf": self.settings,
            "4433": str(self.port),
            "--label web": f"--label web --algorithm {algorithm}",
        }
        self.recipe = Recipe.of(user, "pkcs11-provider", places)
        self.settings.write_text(self.recipe.text(SETTINGS))
        self.recipe.run(KEY)
        (self.directory / "data").write_text("what is signed\n")

    def serve(self) -> Service:
        return Service(self.user, self.recipe, SERVER, self.directory, ("127.0.0.1", self.port))

    def openssl(self, *arguments: str, refused: str = "") -> str:
        """OpenSSL with the provider; its key is that in the token."""
        env = {**self.user.env, "OPENSSL_CONF": str(self.settings)}
        return said([PROGRAM, *arguments], env, self.directory, refused)

    def sign(self, refused: str = "") -> None:
        key = "pkcs11:token=p11tpm;object=web;type=private"
        self.openssl("dgst", "-sha256", "-sign", key, "-out", "signature", "data", refused=refused)


@pytest.fixture(scope="module", params=ALGORITHMS)
def host(
    request: pytest.FixtureRequest,
    new_user: type[rig.User],
    tpm: rig.Tabrmd,
    tmp_path_factory: pytest.TempPathFactory,
) -> Host:
    return Host(new_user(tpm, tmp_path_factory.mktemp("host")), ALGORITHMS[request.param])


def test_sign(host: Host) -> None:
    host.sign()
    public = openssl("x509", "-in", host.directory / "web.pem", "-noout", "-pubkey")
    (host.directory / "public").write_text(public)
    signature = ("-signature", host.directory / "signature", host.directory / "data")
    openssl("dgst", "-sha256", "-verify", host.directory / "public", *signature)
    assert host.errors.lines() == []


def test_server_and_a_restart(host: Host) -> None:
    """Each time with TLS 1.2 and 1.3."""
    for _ in range(2):
        with host.serve():
            for version in (("--tlsv1.2", "--tls-max", "1.2"), ("--tlsv1.3",)):
                trust = ("--cacert", host.directory / "web.pem", f"https://localhost:{host.port}/")
                assert "Ciphers" in said([*CURL, *version, *trust], rig.clean_env(), host.directory)
    assert host.errors.lines() == []


def test_wrong_pin(host: Host, tpm: rig.Tabrmd) -> None:
    before = tpm.swtpm.lockout_counter()
    rig.write_secret(host.user.pin_file, "654321")
    host.sign(refused="Could not")
    rig.write_secret(host.user.pin_file, host.user.pin)
    host.sign()
    if not isinstance(host.user, rig.PeerUser):  # what only p11tpm promises
        assert tpm.swtpm.lockout_counter() == before + 1


def test_restart_of_the_tpm(new_user: type[rig.User], swtpm: rig.Swtpm, tmp_path: Path) -> None:
    host = Host(new_user(swtpm, tmp_path), "p256")
    swtpm.flush()
    with host.serve():
        swtpm.restart()
        trust = ("--cacert", host.directory / "web.pem", f"https://localhost:{host.port}/")
        assert "Ciphers" in said([*CURL, *trust], rig.clean_env(), host.directory)
