"""TLS by OpenSSL and curl, with keys from libp11's engine: servers and clients, TLS 1.2 and 1.3, RSA and EC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import rig
from rig.process import free_port
from rig.program import ours, said
from rig.recipe import Recipe
from rig.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS, SERVER, CURL = range(3)  # blocks of the recipe
VERSIONS = ["tls1.2", "tls1.3"]
# owners of the keys: as the recipe has it, and the other way round
ROLES = {"rsa server, ec client": ("web", "client"), "ec server, rsa client": ("client", "web")}
ALGORITHMS = {"web": "rsaEncryption", "client": "id-ecPublicKey"}


class Tls:
    """A directory where the keys and certificates of the recipe were made for `user`."""

    def __init__(self, user: rig.User, directory: Path) -> None:
        self.user = user
        self.directory = directory
        self.port = free_port()
        user.create_token()
        self.recipe = Recipe.of(user, "openssl", {"4433": str(self.port)})
        self.recipe.run(KEYS, directory)
        user.env["PKCS11_MODULE_PATH"] = user.module

    def uri(self, label: str, pin_file: Path | None = None) -> str:
        return f"pkcs11:token=p11tpm;object={label};type=private;pin-source=file:{pin_file or self.user.pin_file}"

    def key(self, label: str, pin_file: Path | None = None) -> str:
        return f"org.openssl.engine:pkcs11:{self.uri(label, pin_file)}"

    def serve(self, server: str, client: str, *options: str) -> rig.Process:
        """Start s_server by the key `server`, for who has the key `client`."""
        own = ("-cert", f"{server}.pem", "-key", self.key(server))
        let_in = ("-CAfile", f"{client}.pem", "-Verify", "1", "-verify_return_error")
        log = self.directory / "server.log"
        command = ["/usr/bin/openssl", "s_server", "-4", "-accept", str(self.port), "-www", *own, *let_in, *options]
        server_process = rig.Process(["/usr/bin/env", "-C", self.directory, *command], log, self.user.env)
        server_process.wait_listening(self.port)
        return server_process

    def ask(self, server: str, client: str, version: str, *options: str) -> str:
        """What s_client is told: it has the key `client`, and trusts the certificate `server`."""
        own = ("-cert", f"{client}.pem", "-key", self.key(client))
        trust = ("-CAfile", f"{server}.pem", "-verify_return_error")
        where = ("-connect", f"127.0.0.1:{self.port}", "-quiet", f"-{version.replace('.', '_')}")
        command = ["/usr/bin/openssl", "s_client", *where, *own, *trust, *options]
        return said(["/bin/sh", "-c", 'echo "GET / HTTP/1.0\n" | "$@"', "sh", *command], self.user.env, self.directory)

    def curl(self, *options: str | Path, refused: str = "", pin_file: Path | None = None) -> str:
        own = ("--cert", "pkcs11:token=p11tpm;object=client;type=cert", "--key", self.uri("client", pin_file))
        where = ("-sSf", "--cacert", self.directory / "web.pem", f"https://localhost:{self.port}/")
        return said(["/usr/bin/curl", *where, *own, *options], self.user.env, self.directory, refused)


@pytest.fixture(scope="module")
def tls(tpm: rig.Tabrmd, new_user: type[rig.User], tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls(new_user(tpm, tmp_path_factory.mktemp("user")), tmp_path_factory.mktemp("tls"))


@pytest.fixture
def service(tls: Tls, tmp_path: Path) -> Iterator[Service]:
    """The server of the recipe."""
    for name in ("web.pem", "client.pem"):
        (tmp_path / name).write_text((tls.directory / name).read_text())
    with Service(tls.user, tls.recipe, SERVER, tmp_path, ("127.0.0.1", tls.port)) as server:
        yield server


def check_welcome(page: str, version: str, algorithm: str = ALGORITHMS["client"]) -> None:
    """The page of s_server shows what was agreed, and the client's certificate."""
    assert f"Protocol  : {version.replace('tls', 'TLSv')}\n" in page
    assert f"Public Key Algorithm: {algorithm}\n" in page
    assert ours(page) == []


def test_curl_by_the_recipe(tls: Tls, service: Service) -> None:
    check_welcome(tls.recipe.run(CURL, tls.directory), "tls1.3")
    check_welcome(tls.curl("--tls-max", "1.2"), "tls1.2")
    assert ours(service.log) == []


@pytest.mark.parametrize("roles", ROLES)
@pytest.mark.parametrize("engine", [(), ("-engine", "pkcs11")], ids=["one key", "default engine"])
def test_s_server_and_s_client(tls: Tls, engine: tuple[str, ...], roles: str) -> None:
    server, client = ROLES[roles]
    process = tls.serve(server, client, *engine)
    try:
        for version in VERSIONS:
            check_welcome(tls.ask(server, client, version, *engine), version, ALGORITHMS[client])
    finally:
        process.stop()
    assert ours(process.output()) == []


def test_curl_with_the_engine_as_default(tls: Tls, service: Service) -> None:
    options = ("--engine", "pkcs11", "--key-type", "ENG", "--cert-type", "ENG")
    check_welcome(tls.curl(*options), "tls1.3")
    assert ours(service.log) == []


@pytest.mark.usefixtures("service")
def test_wrong_pin_of_a_client(tls: Tls, tpm: rig.Tabrmd, tmp_path: Path) -> None:
    before = tpm.swtpm.lockout_counter()
    wrong = rig.write_secret(tmp_path / "wrong", "654321")
    tls.curl(pin_file=wrong, refused="curl: (58) ")
    assert tpm.swtpm.lockout_counter() == before + 1
    check_welcome(tls.curl(), "tls1.3")


def test_wrong_pin_of_a_server(tls: Tls, tpm: rig.Tabrmd, tmp_path: Path) -> None:
    before = tpm.swtpm.lockout_counter()
    key = tls.key("web", rig.write_secret(tmp_path / "wrong", "654321"))
    command = ["/usr/bin/openssl", "s_server", "-accept", str(tls.port), "-cert", "web.pem", "-key", key]
    said(command, tls.user.env, tls.directory, refused="PIN incorrect")
    assert tpm.swtpm.lockout_counter() == before + 1


def test_restart_of_the_tpm(swtpm: rig.Swtpm, new_user: type[rig.User], tmp_path: Path) -> None:
    """The server goes on as if nothing had happened; nobody else is at this TPM, which has no resource manager."""
    user = new_user(swtpm, tmp_path)
    user.init("p11tpm", key_label="client")
    user.env["PKCS11_MODULE_PATH"] = user.module
    key = f"org.openssl.engine:pkcs11:pkcs11:object=client;type=private;pin-source=file:{user.pin_file}"
    request = ("req", "-new", "-x509", "-subj", "/CN=localhost", "-key", key, "-out", "client.pem")
    said(["/usr/bin/openssl", *request], user.env, tmp_path)
    swtpm.flush()  # libp11 ends without C_Finalize
    port = free_port()
    ask = ["/usr/bin/openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", "client.pem"]
    serve = ("s_server", "-4", "-www", "-accept", str(port), "-cert", tmp_path / "client.pem", "-key", key)
    server = rig.Process(["/usr/bin/openssl", *serve], tmp_path / "log", user.env)
    try:
        server.wait_listening(port)
        for _ in range(2):
            said([*ask, "-verify_return_error"], rig.clean_env(), tmp_path)
            swtpm.restart()
        said([*ask, "-verify_return_error"], rig.clean_env(), tmp_path)
    finally:
        server.stop()
    assert ours(server.output()) == []
