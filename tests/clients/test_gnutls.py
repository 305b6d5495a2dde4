"""GnuTLS by its tools: p11tool, certtool, gnutls-serv and gnutls-cli, TLS 1.2 and 1.3, RSA and EC."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import rig
from rig.process import free_port
from rig.program import openssl, ours, said
from rig.recipe import Recipe
from rig.service import Service

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE, KEYS, SERVER, CLIENT = range(4)  # blocks of the recipe
ONLY = {version: f"--priority=NORMAL:-VERS-ALL:+VERS-{version}" for version in ("TLS1.2", "TLS1.3")}
SIGNATURES = {
    "TLS1.2": {"rsa": "RSA-SHA256", "ec": "ECDSA-SHA256"},
    "TLS1.3": {"rsa": "RSA-PSS-RSAE-SHA256", "ec": "ECDSA-SECP256R1-SHA256"},
}
ROLES = {"rsa server, ec client": ("rsa", "client"), "ec server, rsa client": ("web", "rsa")}
KINDS = {"web": "ec", "client": "ec", "rsa": "rsa"}
TOKEN = "pkcs11:token=p11tpm"


class GnuTls:
    """A directory where the keys and certificates of the recipe were made for `user`."""

    def __init__(self, user: rig.User, directory: Path) -> None:
        self.user = user
        self.directory = directory
        self.port = free_port()
        user.create_token()
        self.recipe = Recipe.of(user, "gnutls", {"5556": str(self.port)})
        (directory / "web.cfg").write_text(self.recipe.text(TEMPLATE))
        self.recipe.run(KEYS, directory)
        new = ("--generate-privkey=rsa", "--bits=2048", "--label=rsa", "--outfile=rsa.pub")
        self.tool("p11tool", "--login", *new, TOKEN)
        own = ("--load-privkey", self.key("rsa"), "--load-pubkey=rsa.pub", "--outfile=rsa.pem")
        self.tool("certtool", "--generate-self-signed", "--template=web.cfg", *own)
        user.p11tpm("cert", "import", directory / "rsa.pem")

    def tool(self, name: str, *arguments: str | Path, refused: str = "", pin: str = "") -> str:
        env = {**self.user.env, "GNUTLS_PIN": pin or self.user.pin}
        provider = ("--provider", self.user.module)
        return said([f"/usr/bin/{name}", *provider, *arguments], env, self.directory, refused)

    def key(self, label: str, pin_file: Path | None = None) -> str:
        return f"{TOKEN};object={label};type=private;pin-source={pin_file or self.user.pin_file}"

    def own(self, label: str) -> tuple[str, str]:
        return f"--x509keyfile={self.key(label)}", f"--x509certfile={TOKEN};object={label};type=cert"

    def serve(self, server: str, client: str) -> rig.Process:
        """Start gnutls-serv by the key `server`, for who has the key `client`."""
        let_in = (f"--x509cafile={self.directory / client}.pem", "--require-client-cert", "--verify-client-cert")
        options = ("--provider", self.user.module, "--http", f"--port={self.port}", *let_in, *self.own(server))
        process = rig.Process(["/usr/bin/gnutls-serv", *options], self.directory / "server.log", self.user.env)
        process.wait_listening(self.port)
        return process

    def ask(self, server: str, client: str, version: str) -> str:
        """What gnutls-cli is told: it has the key `client`, and trusts the certificate `server`."""
        where = (f"--port={self.port}", "localhost", f"--x509cafile={server}.pem", ONLY[version])
        command = ["/usr/bin/gnutls-cli", "--provider", self.user.module, *where, *self.own(client)]
        request = 'printf "GET / HTTP/1.0\\r\\n\\r\\n" | "$@"'
        return said(["/bin/sh", "-c", request, "sh", *command], self.user.env, self.directory)


@pytest.fixture(scope="module")
def gnutls(tpm: rig.Tabrmd, new_user: type[rig.User], tmp_path_factory: pytest.TempPathFactory) -> GnuTls:
    return GnuTls(new_user(tpm, tmp_path_factory.mktemp("user")), tmp_path_factory.mktemp("gnutls"))


def check_silent(*logs: str) -> None:
    """No line in them is ours."""
    for log in logs:
        assert ours(log) == []


def check_agreed(told: str, log: str, version: str, server: str, client: str) -> None:
    """The client trusts the server, and the server tells who signed by what."""
    assert "- Status: The certificate is trusted." in told
    assert f"- Description: ({version}-X.509)-" in told
    assert "HTTP/1.0 200 OK" in told
    assert f"- Server Signature: {SIGNATURES[version][KINDS[server]]}\n" in log
    assert f"- Client Signature: {SIGNATURES[version][KINDS[client]]}\n" in log
    check_silent(told, log)


def objects(listed: str) -> list[str]:
    return re.findall(r"object=(\w+;type=\w+)", listed)


def test_list(gnutls: GnuTls) -> None:
    """All objects of both keys, those that need no login without it."""
    tokens = gnutls.tool("p11tool", "--list-tokens")
    assert "token=p11tpm\n" in tokens
    assert "Requires login" in tokens
    public = gnutls.tool("p11tool", "--list-all", TOKEN)
    every = gnutls.tool("p11tool", "--login", "--list-all", TOKEN)
    kinds = {"public": sorted(objects(public)), "private": sorted(set(objects(every)) - set(objects(public)))}
    assert kinds["public"] == [f"{label};type={kind}" for label in sorted(KINDS) for kind in ("cert", "public")]
    assert kinds["private"] == [f"{label};type=private" for label in sorted(KINDS)]
    check_silent(tokens, public, every)


@pytest.mark.parametrize("label", ["rsa", "web"])
def test_sign(gnutls: GnuTls, label: str) -> None:
    told = gnutls.tool("p11tool", "--login", "--test-sign", gnutls.key(label))
    assert told.count("... ok") == 3
    check_silent(told)


@pytest.mark.parametrize("label", ["rsa", "web"])
def test_export(gnutls: GnuTls, label: str) -> None:
    """The certificate as it was, and the public key in it."""
    certificate = gnutls.directory / f"{label}.pem"
    exported = gnutls.directory / "exported"
    out = f"--outfile={exported}"
    gnutls.tool("p11tool", "--export", f"{TOKEN};object={label};type=cert", out)
    assert exported.read_text().strip() == certificate.read_text().strip()
    gnutls.tool("p11tool", "--export-pubkey", f"{TOKEN};object={label}", out)
    assert exported.read_text() == openssl("x509", "-in", certificate, "-noout", "-pubkey")


@pytest.mark.parametrize("label", ["rsa", "web"])
def test_request(gnutls: GnuTls, label: str) -> None:
    load = ("--load-privkey", gnutls.key(label), "--load-pubkey", f"{label}.pub")
    gnutls.tool("certtool", "--generate-request", *load, "--template", "web.cfg", "--outfile", "request")
    openssl("req", "-verify", "-noout", "-in", gnutls.directory / "request")


def test_delete(gnutls: GnuTls) -> None:
    """Both halves of an EC key that p11tool has made."""
    gnutls.tool(
        "p11tool", "--login", "--generate-privkey=ecdsa", "--curve=secp384r1", "--label=gone", "--outfile=gone", TOKEN
    )
    for kind in ("private", "public"):
        gnutls.tool("p11tool", "--login", "--batch", "--delete", f"{TOKEN};object=gone;type={kind}")
    assert "object=gone" not in gnutls.tool("p11tool", "--login", "--list-all", TOKEN)


def test_tls_by_the_recipe(gnutls: GnuTls, tmp_path: Path) -> None:
    (tmp_path / "client.pem").write_bytes((gnutls.directory / "client.pem").read_bytes())
    with Service(gnutls.user, gnutls.recipe, SERVER, tmp_path, ("127.0.0.1", gnutls.port)) as service:
        told = gnutls.recipe.run(CLIENT, gnutls.directory)
        check_agreed(told, service.log, "TLS1.3", "web", "client")


@pytest.mark.parametrize("roles", ROLES)
def test_tls(gnutls: GnuTls, roles: str) -> None:
    process = gnutls.serve(*ROLES[roles])
    try:
        for version in ONLY:
            told = gnutls.ask(*ROLES[roles], version)
            check_agreed(told, process.output(), version, *ROLES[roles])
    finally:
        process.stop()


def test_wrong_pin(gnutls: GnuTls, tpm: rig.Tabrmd) -> None:
    before = tpm.swtpm.lockout_counter()
    gnutls.tool("p11tool", "--login", "--list-privkeys", TOKEN, pin="654321", refused="PIN")
    assert tpm.swtpm.lockout_counter() == before + 1


def test_wrong_pin_of_a_server(gnutls: GnuTls, tpm: rig.Tabrmd, tmp_path: Path) -> None:
    before = tpm.swtpm.lockout_counter()
    wrong = rig.write_secret(tmp_path / "wrong", "654321")
    own = (f"--x509keyfile={gnutls.key('web', wrong)}", f"--x509certfile={TOKEN};object=web;type=cert")
    command = ["/usr/bin/gnutls-serv", "--provider", gnutls.user.module, f"--port={gnutls.port}", *own]
    said(command, gnutls.user.env, tmp_path, refused="PIN")
    assert tpm.swtpm.lockout_counter() == before + 1


def test_restart_of_the_tpm(swtpm: rig.Swtpm, new_user: type[rig.User], tmp_path: Path) -> None:
    """The server goes on as if nothing had happened; nobody else is at this TPM, which has no resource manager."""
    user = new_user(swtpm, tmp_path)
    user.init("p11tpm", key_label="web")
    key = f"{TOKEN};object=web;type=private;pin-source={user.pin_file}"
    (tmp_path / "web.cfg").write_text("cn = localhost\ndns_name = localhost\nsigning_key\ntls_www_server\n")
    user.public_pem("web", tmp_path / "web.pub")
    provider = ("--provider", user.module)
    made = ("--generate-self-signed", "--template=web.cfg", "--load-pubkey=web.pub", "--outfile=web.pem")
    said(["/usr/bin/certtool", *provider, *made, f"--load-privkey={key}"], user.env, tmp_path)
    port = free_port()
    own = (f"--x509keyfile={key}", f"--x509certfile={tmp_path / 'web.pem'}")
    server = rig.Process(["/usr/bin/gnutls-serv", *provider, f"--port={port}", *own], tmp_path / "log", user.env)
    ask = ["/usr/bin/gnutls-cli", f"--port={port}", "localhost", "--x509cafile=web.pem"]
    try:
        server.wait_listening(port)
        for _ in range(3):
            assert "- Handshake was completed" in said(ask, rig.clean_env(), tmp_path)
            swtpm.restart()
    finally:
        server.stop()
    check_silent(server.output())
