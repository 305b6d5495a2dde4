"""NSS, the library of Firefox and Thunderbird, by its tools: modutil, certutil, pk12util, selfserv, tstclnt."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from rig.process import answers, free_port, wait_until
from rig.program import Pkcs12, openssl, ours, said
from rig.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "for nss"
KINDS = {
    "rsa": ("-k", "rsa", "-g", "2048"),
    "ec": ("-k", "ec", "-q", "nistp256"),
    "bigger": ("-k", "ec", "-q", "nistp384"),
}


class Nss:
    """A database of certificates, below `directory`, to which the module of `user` was added."""

    def __init__(self, user: rig.User, directory: Path) -> None:
        self.user = user
        user.env.update(PIN=user.pin)
        self.directory = directory
        self.database = f"sql:{directory}"
        self.pin_file = user.pin_file
        self.noise = self.file("noise")  # instead of asking for key strokes
        self.noise.write_bytes(os.urandom(64))
        self.run("certutil", "-N", "-d", self.database, "--empty-password")
        self.modutil("-add", "tpm", "-libfile", user.module)

    def file(self, name: str) -> Path:
        return self.directory / name

    def run(self, *command: str | Path, refused: str = "") -> str:
        return said([*command], self.user.env, self.directory, refused)

    def modutil(self, *arguments: str) -> str:
        return self.run("modutil", "-dbdir", self.database, "-force", *arguments)

    def certutil(self, order: str, *arguments: str | Path, refused: str = "") -> str:
        place = ("-d", self.database, "-h", TOKEN, "-f", self.pin_file)
        return self.run("certutil", order, *place, *arguments, refused=refused)

    def generate(self, kind: str) -> str:
        """A new key pair's CKA_ID in hexadecimal."""
        before = self.keys()
        self.certutil("-G", *KINDS[kind], "-z", self.noise)
        (new,) = set(self.keys()) - set(before)
        return new

    def keys(self) -> dict[str, str]:
        """Kinds of the private keys that NSS sees, by CKA_ID."""
        return {
            number: kind for kind, number in re.findall(r"^<.*?> (\w+) +(\w{40})", self.certutil("-K"), re.MULTILINE)
        }


@pytest.fixture(scope="module")
def nss(tpm: rig.Tabrmd, tmp_path_factory: pytest.TempPathFactory) -> Nss:
    user = rig.User(tpm, tmp_path_factory.mktemp("nss"))
    user.init(TOKEN)
    return Nss(user, tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="module", params=KINDS)
def key(nss: Nss, request: pytest.FixtureRequest) -> str:
    """CKA_ID of a key that certutil has made."""
    number = nss.generate(request.param)
    assert nss.keys()[number] == KINDS[request.param][1]
    return number


def check_request(nss: Nss, *key: str | Path) -> str:
    """Have a certificate request made; its public key in PEM, after a look at the signature."""
    request = nss.file("request")
    nss.certutil("-R", *key, "-s", "CN=somebody", "-a", "-o", request)
    assert "CN = somebody\n" in openssl("req", "-verify", "-noout", "-subject", "-in", request)
    return openssl("req", "-pubkey", "-noout", "-in", request)


def test_modutil(nss: Nss) -> None:
    told = nss.modutil("-list", "tpm")
    assert re.search(rf"Token Name: {TOKEN} *\n", told)
    assert re.search(r"Access: NOT Write Protected\n", told)
    assert re.search(r"Login Type: Login required\n", told)
    assert re.search(r"User Pin: Initialized\n", told)


def test_request_by_a_key(nss: Nss, key: str) -> None:
    """The same key signs each time."""
    assert check_request(nss, "-k", key) == check_request(nss, "-k", key)


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_request_by_a_new_key(nss: Nss, kind: str) -> None:
    before = set(nss.keys())
    check_request(nss, *KINDS[kind], "-z", nss.noise)
    assert len(set(nss.keys()) - before) == 1


def test_keys_stay_in_the_tpm(nss: Nss, key: str) -> None:
    command = ["/usr/bin/pkcs11-tool", "--module", nss.user.module, "--login", "--pin", "env:PIN"]
    listed = nss.run(*command, "-O", "--type", "privkey", "--id", key)
    assert "Access:     sensitive, always sensitive, never extractable, local\n" in listed


def check_server(port: int, certificate: Path, version: ssl.TLSVersion) -> None:
    """Ask the server for a page, and believe only this certificate."""
    context = ssl.create_default_context(cafile=certificate)
    context.minimum_version = context.maximum_version = version
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.0 200 OK")


@contextmanager
def serving(nss: Nss, kind: str) -> Iterator[tuple[int, Path, rig.Process]]:
    """A server's port, its certificate that a new key in the token has signed for itself, and the server."""
    name, certificate = f"server {kind}", nss.file("server.pem")
    subject = ("-n", name, "-s", f"CN={kind}", "-8", "localhost", "-x", "-t", "u,u,u")
    nss.certutil("-S", *KINDS[kind], "-z", nss.noise, *subject)
    nss.certutil("-L", "-n", f"{TOKEN}:{name}", "-a", "-o", certificate)
    port = free_port()
    options = ("-n" if kind == "rsa" else "-e", f"{TOKEN}:{name}", "-p", str(port), "-f", nss.pin_file)
    command = ["/usr/bin/selfserv", "-d", nss.database, *options, "-V", "tls1.2:tls1.3"]
    server = rig.Process(command, nss.file("log"), nss.user.env)
    try:
        wait_until(lambda: answers(("127.0.0.1", port)), "selfserv")
        yield port, certificate, server
    finally:
        server.stop()


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_tls_server(nss: Nss, kind: str) -> None:
    with serving(nss, kind) as (port, certificate, server):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            check_server(port, certificate, version)
    assert ours(server.output()) == []


def test_deleted(nss: Nss) -> None:
    """`certutil -F` takes the key away."""
    number = nss.generate("ec")
    nss.certutil("-F", "-k", number)
    assert number not in set(nss.keys())


@pytest.mark.parametrize("kind", ["rsa:2048", "ec"])
def test_import(nss: Nss, kind: str) -> None:
    """Pk12util: NSS brings the key as a wrapped one, or else in the clear."""
    name = f"my {kind}"
    other = Pkcs12(nss.directory, name, kind, nss.pin_file)
    before = set(nss.keys())
    place = ("-d", nss.database, "-h", TOKEN, "-k", nss.pin_file, "-w", nss.pin_file)
    assert "IMPORT SUCCESSFUL" in nss.run("pk12util", "-i", other.file, *place)
    (new,) = set(nss.keys()) - before
    assert check_request(nss, "-k", new) == other.public_key()
    back = nss.certutil("-L", "-n", f"{TOKEN}:{name}", "-a")
    assert back.replace("\r", "") == other.certificate.read_text()


def test_wrong_pin(nss: Nss, tpm: rig.Tabrmd, tmp_path: Path) -> None:
    """It is refused, and the TPM sees it once."""
    before = tpm.swtpm.lockout_counter()
    wrong = rig.write_secret(tmp_path / "wrong", "654321")
    nss.run("certutil", "-K", "-d", nss.database, "-h", TOKEN, "-f", wrong, refused="SEC_ERROR_BAD_PASSWORD")
    assert tpm.swtpm.lockout_counter() == before + 1


class Elsewhere:
    """A server with its key in a file, which lets in who has the certificate `friend`, and shows it to him."""

    def __init__(self, directory: Path, friend: Path, port: int) -> None:
        self.port = port
        self.certificate, key = directory / "elsewhere.pem", directory / "elsewhere.key"
        names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *curve, *names, "-keyout", key, "-out", self.certificate)
        serve = ("-www", "-accept", str(self.port), "-Verify", "1", "-verify_return_error", "-CAfile", friend)
        command = ["/usr/bin/openssl", "s_server", *serve, "-cert", self.certificate, "-key", key]
        self.process = rig.Process(command, directory / "elsewhere.log")
        wait_until(lambda: answers(("127.0.0.1", port)), "s_server")


def check_page(page: str, version: str, name: str) -> None:
    assert f"Protocol  : {version.replace('tls', 'TLSv')}\n" in page
    assert f"Subject: CN={name}\n" in page
    assert ours(page) == []


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_tls_client(nss: Nss, tpm: rig.Tabrmd, tmp_path: Path, kind: str) -> None:
    """Its certificate is let in; with a wrong PIN it is not, and the TPM sees that once."""
    name, certificate = f"client {kind}", tmp_path / "client.pem"
    nss.certutil("-S", *KINDS[kind], "-z", nss.noise, "-n", name, "-s", f"CN={name}", "-x", "-t", "u,u,u")
    nss.certutil("-L", "-n", f"{TOKEN}:{name}", "-a", "-o", certificate)
    server = Elsewhere(tmp_path, certificate, free_port())
    request = tmp_path / "request"
    request.write_bytes(b"GET / HTTP/1.0\r\n\r\n")
    where = ("-o", "-h", "localhost", "-p", str(server.port), "-d", nss.database)
    command = ["/usr/bin/tstclnt", *where, "-A", request, "-n", f"{TOKEN}:{name}"]
    try:
        for version in ("tls1.2", "tls1.3"):
            page = nss.run(*command, "-W", nss.pin_file, "-V", f"{version}:{version}")
            check_page(page, version, name)
        before = tpm.swtpm.lockout_counter()
        nss.run(*command, "-W", rig.write_secret(tmp_path / "wrong", "654321"), "-V", "tls1.3:tls1.3", refused="rror")
        assert tpm.swtpm.lockout_counter() == before + 1
    finally:
        server.process.stop()


def test_recipe(tpm: rig.Tabrmd, new_user: type[rig.User], tmp_path: Path) -> None:
    """Databases of two programs, a request, a certificate for it, and a log-in by that."""
    user = new_user(tpm, tmp_path)
    user.create_token()
    user.env["HOME"] = str(tmp_path)
    profile = tmp_path / ".mozilla" / "firefox" / "0123abcd.default-esr"
    profile.mkdir(parents=True)
    said(["/usr/bin/certutil", "-N", "-d", f"sql:{profile}", "--empty-password"], user.env, tmp_path)
    port = str(free_port())
    recipe = Recipe.of(user, "nss", {"4433": port})
    common, firefox, policy, request, log_in = range(5)
    for block, database in ((common, tmp_path / ".pki" / "nssdb"), (firefox, profile)):
        recipe.run(block)
        listed = said(["/usr/bin/modutil", "-dbdir", f"sql:{database}", "-list", "p11tpm"], user.env, tmp_path)
        assert "Token Name: p11tpm" in listed
    (module,) = json.loads(recipe.text(policy))["policies"]["SecurityDevices"]["Add"].values()
    assert Path(module).samefile(user.module)
    recipe.run(request)
    authority = Pkcs12(tmp_path, "authority", "ec", user.pin_file)
    by = ("-CA", authority.certificate, "-CAkey", authority.key, "-CAcreateserial")
    openssl("x509", "-req", "-in", tmp_path / "me.csr", *by, "-out", tmp_path / "me.pem")
    server = Elsewhere(tmp_path, authority.certificate, int(port))
    shutil.copy(server.certificate, tmp_path / "company.pem")
    try:
        check_page(recipe.run(log_in), "tls1.3", "me")
    finally:
        server.process.stop()


def test_restart_of_the_tpm(swtpm: rig.Swtpm, new_user: type[rig.User], tmp_path: Path) -> None:
    """A server goes on as if nothing had happened; nobody else is at this TPM, which has no resource manager."""
    user = new_user(swtpm, tmp_path)
    user.create_token(TOKEN)
    database = tmp_path / "database"
    database.mkdir()
    with serving(Nss(user, database), "ec") as (port, certificate, server):
        for _ in range(3):
            check_server(port, certificate, ssl.TLSVersion.TLSv1_3)
            swtpm.restart()
    assert ours(server.output()) == []
