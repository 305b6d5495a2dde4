"""Java's own tools: keytool and jarsigner through SunPKCS11, the provider that comes with the JDK; and TLS."""

from __future__ import annotations

import re
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from rig.process import free_port
from rig.program import Pkcs12, openssl, ours, said
from rig.recipe import Recipe
from rig.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

# entries of the key store, with what makes their keys in the token
ENTRIES = {
    "rsa": ("-keyalg", "RSA", "-keysize", "2048"),
    "ec": ("-keyalg", "EC", "-groupname", "secp256r1"),
    "bigger": ("-keyalg", "EC", "-groupname", "secp384r1"),
}
SOURCE = Path(__file__).parent / "Tls.java"
PROVIDER = ("-addprovider", "SunPKCS11", "-providerArg")
IN_TOKEN = ("-providerName", "SunPKCS11-token")  # else Java makes RSA keys itself, and then imports them
# short runs: no second compiler, and no file in the machine's /tmp
JVM = ("-J-XX:TieredStopAtLevel=1", "-J-XX:-UsePerfData", "-J-Xshare:auto", "-J-Duser.language=en")


class Java:
    """Keytool and jarsigner with the token of `user` as their key store."""

    def __init__(self, user: rig.User, directory: Path) -> None:
        self.user = user
        self.directory = directory
        user.env.update(PIN=user.pin)
        config = self.file("pkcs11.cfg")
        config.write_text(f'name = token\nlibrary = "{user.module}"\nslotListIndex = 0\n')
        self.pin_file = user.pin_file
        self.store = ("-keystore", "NONE", "-storetype", "PKCS11", *PROVIDER, str(config))

    def file(self, name: str) -> Path:
        return self.directory / name

    def run(self, *command: str | Path, refused: str = "") -> str:
        return said([*command], self.user.env, self.directory, refused)

    def keytool(self, order: str, *arguments: str | Path, refused: str = "") -> str:
        place = (*self.store, "-storepass:file", self.pin_file)
        return self.run("keytool", *JVM, order, *place, *arguments, refused=refused)

    def generate(self, alias: str, *arguments: str) -> None:
        self.keytool("-genkeypair", "-alias", alias, "-dname", f"CN={alias}", *arguments)

    def entries(self) -> dict[str, str]:
        """Kinds of the entries, by alias."""
        return dict(re.findall(r"^(\w+), (\w+)", self.keytool("-list"), re.MULTILINE))

    def certificates(self) -> dict[str, str]:
        """Certificates in PEM, by alias."""
        entries = self.keytool("-list", "-rfc").split("Alias name: ")[1:]
        pem = r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n"
        return {text.split()[0]: "".join(re.findall(pem, text, re.DOTALL)) for text in entries}

    def sign(self, alias: str, signed: Path) -> None:
        """Make `signed`, a jar with one file."""
        jar = self.file("plain.jar")
        with zipfile.ZipFile(jar, "w") as archive:
            archive.writestr("text", "what is signed\n")
        place = (*self.store, "-storepass:file", self.pin_file)
        self.run("jarsigner", *JVM, *place, "-signedjar", signed, jar, alias)

    def check(self, signed: Path, refused: str = "") -> str:
        """Jarsigner's opinion; it needs no token for that."""
        return self.run("jarsigner", *JVM, "-verify", "-verbose", signed, refused=refused)


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Java]:
    """A key store whose keys keytool made in the token."""
    with rig.Tabrmd(max_tries=32) as tpm:
        user = rig.User(tpm, tmp_path_factory.mktemp("java"))
        user.init()
        made = Java(user, tmp_path_factory.mktemp("keystore"))
        for alias, kind in ENTRIES.items():
            made.generate(alias, *kind, *IN_TOKEN)
        yield made


@pytest.fixture(scope="module")
def certificates(java: Java) -> dict[str, str]:
    return java.certificates()


def check_request(java: Java, alias: str, public_key: str, *arguments: str) -> None:
    """A certificate request, whose signature is good, for this public key."""
    request = java.file("request")
    java.keytool("-certreq", "-alias", alias, "-file", request, *arguments)
    openssl("req", "-verify", "-noout", "-in", request)
    assert openssl("req", "-pubkey", "-noout", "-in", request) == public_key


def public_key(certificate: str) -> str:
    return openssl("x509", "-pubkey", "-noout", stdin=certificate)


def test_list(java: Java) -> None:
    """Java makes session keys and keeps a copy of the private one, with a certificate."""
    assert java.entries() == dict.fromkeys(ENTRIES, "PrivateKeyEntry")


def test_certificates(java: Java, certificates: dict[str, str]) -> None:
    """Signed by the keys that they are for."""
    assert set(certificates) == set(ENTRIES)
    for alias, pem in certificates.items():
        path = java.file(f"{alias}.pem")
        path.write_text(pem)
        openssl("verify", "-check_ss_sig", "-CAfile", path, path)
        assert f"CN = {alias}\n" in openssl("x509", "-noout", "-subject", "-in", path)


def test_keys_stay_in_the_tpm(java: Java) -> None:
    """A copy of a session key is as good as its original."""
    command = ["/usr/bin/pkcs11-tool", "--module", java.user.module, "--login", "--pin", "env:PIN"]
    listed = java.run(*command, "-O", "--type", "privkey")
    access = re.findall(r"Access: +(.+)", listed)
    assert access == ["sensitive, always sensitive, never extractable, local"] * (len(ENTRIES) + 1)


@pytest.mark.parametrize("alias", ENTRIES)
def test_request(java: Java, certificates: dict[str, str], alias: str) -> None:
    check_request(java, alias, public_key(certificates[alias]))


def test_request_signed_by_pss(java: Java, certificates: dict[str, str]) -> None:
    check_request(java, "rsa", public_key(certificates["rsa"]), "-sigalg", "RSASSA-PSS")


@pytest.mark.parametrize("alias", ["rsa", "ec"])
def test_jar(java: Java, alias: str) -> None:
    signed = java.file(f"{alias}.jar")
    java.sign(alias, signed)
    told = java.check(signed)
    assert "jar verified." in told
    assert f'Signed by "CN={alias}"' in told


def test_changed_jar(java: Java) -> None:
    """The check of the jar is one."""
    signed = java.file("changed.jar")
    java.sign("ec", signed)
    with zipfile.ZipFile(signed) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(signed, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data.replace(b"what", b"that") if name == "text" else data)
    java.check(signed, refused="digest error for text")


def test_imported(java: Java) -> None:
    """A key of Java's own making goes into the token, is used, gets another name and is deleted."""
    java.generate("mine", "-keyalg", "RSA", "-keysize", "2048")
    key = public_key(java.certificates()["mine"])
    java.keytool("-changealias", "-alias", "mine", "-destalias", "yours")
    check_request(java, "yours", key)
    java.keytool("-delete", "-alias", "yours")
    assert set(java.entries()) == set(ENTRIES)


@pytest.mark.parametrize("kind", ["rsa:2048", "ec"])
def test_key_store_of_elsewhere(java: Java, kind: str) -> None:
    """`-importkeystore` of a PKCS#12 file."""
    other = Pkcs12(java.directory, "other", kind, java.pin_file)
    source = ("-srckeystore", other.file, "-srcstoretype", "PKCS12", "-srcstorepass:file", java.pin_file)
    target = ("-destkeystore", "NONE", "-deststoretype", "PKCS11", "-deststorepass:file", java.pin_file)
    java.run("keytool", *JVM, "-importkeystore", *source, *target, *java.store[4:], "-noprompt")
    check_request(java, "other", other.public_key())
    java.keytool("-delete", "-alias", "other")


def test_secret_key(java: Java) -> None:
    java.keytool("-genseckey", "-alias", "secret", "-keyalg", "AES", "-keysize", "256")
    assert java.entries()["secret"] == "SecretKeyEntry"
    java.keytool("-delete", "-alias", "secret")
    assert set(java.entries()) == set(ENTRIES)


def test_wrong_pin(newcomer: rig.User, tabrmd: rig.Tabrmd, tmp_path: Path) -> None:
    """It is refused, and the TPM sees it once."""
    newcomer.init()
    java = Java(newcomer, tmp_path)
    rig.write_secret(java.pin_file, "654321")
    java.keytool("-list", refused="load failed")
    assert tabrmd.swtpm.lockout_counter() == 1


SIGNATURES = {"rsa": "RSA-PSS+SHA256:RSA+SHA256", "ec": "ECDSA+SHA256:ECDSA+SHA384"}  # as openssl has them
VERSIONS = ("tls1_2", "tls1_3")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the class Tls is."""
    place = tmp_path_factory.mktemp("classes")
    said(["/usr/bin/javac", "-J-XX:TieredStopAtLevel=1", "-d", place, SOURCE], rig.clean_env(), place)
    return place


def tls(java: Java, program: Path, *words: str, pin: str = "", **more: str | Path) -> list[str | Path]:
    """Return the command that runs the class Tls with the token as its key store."""
    security = java.file("java.security")
    security.write_text(f"security.provider.12=SunPKCS11 {java.file('pkcs11.cfg')}\n")
    ssl = {"keyStore": "NONE", "keyStoreType": "PKCS11", "keyStorePassword": pin or java.user.pin, **more}
    own = [f"-Djavax.net.ssl.{name}={value}" for name, value in ssl.items()]
    usual = [f"-Djava.security.properties={security}", "-Djava.net.preferIPv4Stack=true"]
    options = [option.removeprefix("-J") for option in JVM]
    return ["/usr/bin/java", *options, *usual, *own, "-cp", program, "Tls", *words]


def check_server(port: int, certificates: Path, version: str, signatures: str) -> None:
    """Greet the server, and believe only these certificates."""
    trust = ("-CAfile", certificates, "-verify_return_error", "-sigalgs", signatures)
    told = openssl("s_client", f"-{version}", "-connect", f"127.0.0.1:{port}", *trust, "-ign_eof", stdin="x\n")
    assert "Verify return code: 0 (ok)" in told
    assert "answer\n" in told


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_tls_server(java: Java, certificates: dict[str, str], program: Path, tmp_path: Path) -> None:
    """It has the keys of both kinds, and the client chooses."""
    trusted = write(tmp_path, "trusted", "".join(certificates[alias] for alias in ENTRIES))
    port = free_port()
    server = rig.Process(tls(java, program, "serve", str(port)), tmp_path / "log", java.user.env)
    try:
        server.wait_listening(port)
        for version in VERSIONS:
            for signatures in SIGNATURES.values():
                check_server(port, trusted, version, signatures)
    finally:
        server.stop()
    assert server.output() == ""


def test_tls_client(java: Java, certificates: dict[str, str], program: Path, tmp_path: Path) -> None:
    """Servers that want a certificate of one kind, and let in just that one, show it in their page."""
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    own, key, trust = (tmp_path / name for name in ("own.pem", "own.key", "trust.p12"))
    openssl("req", "-x509", *curve, *names, "-keyout", key, "-out", own)
    store = ("-keystore", trust, "-storetype", "PKCS12", "-storepass", "not secret")
    java.run("keytool", *JVM, "-importcert", "-noprompt", "-alias", "own", "-file", own, *store)
    addresses, expected = [], []
    with ExitStack() as servers:
        for version in VERSIONS:
            for kind, signatures in SIGNATURES.items():
                port = free_port()
                let_in = ("-CAfile", write(tmp_path, f"{kind}.pem", certificates[kind]), "-Verify", "1")
                wanted = ("-verify_return_error", f"-{version}", "-client_sigalgs", signatures)
                place = ("-4", "-www", "-accept", str(port), "-cert", own, "-key", key)
                log = tmp_path / f"{port}.log"
                server = rig.Process(["/usr/bin/openssl", "s_server", *place, *let_in, *wanted], log)
                servers.callback(server.stop)
                server.wait_listening(port)
                addresses.append(f"https://127.0.0.1:{port}/")
                expected.append((version.replace("tls1_", "TLSv1."), kind))
        trusting = {"trustStore": trust, "trustStorePassword": "not secret"}
        pages = java.run(*tls(java, program, "ask", *addresses, **trusting))
    agreed = re.findall(r"Protocol  : (\S+)\n.*?Subject: CN=(\w+)", pages, re.DOTALL)
    assert agreed == expected


def test_wrong_pin_of_a_server(newcomer: rig.User, tabrmd: rig.Tabrmd, program: Path, tmp_path: Path) -> None:
    newcomer.init()
    java = Java(newcomer, tmp_path)
    java.run(*tls(java, program, "serve", str(free_port()), pin="654321"), refused="load failed")
    assert tabrmd.swtpm.lockout_counter() == 1


def test_recipe(tabrmd: rig.Tabrmd, new_user: type[rig.User], program: Path, tmp_path: Path) -> None:
    user = new_user(tabrmd, tmp_path)
    user.create_token()
    port = free_port()
    recipe = Recipe.of(user, "java", {"/etc/p11tpm": tmp_path, "-jar server.jar": f"-cp {program} Tls serve {port}"})
    config, make, provider, serve = range(4)
    write(tmp_path, "java.cfg", recipe.text(config))
    write(tmp_path, "java.security", recipe.text(provider))
    recipe.run(make)
    openssl("req", "-verify", "-noout", "-in", tmp_path / "web.csr")
    store = ("-keystore", "NONE", "-storetype", "PKCS11", "-storepass:file", user.pin_file)
    export = ("-exportcert", "-rfc", "-alias", "web", "-file", tmp_path / "web.pem")
    said(["/usr/bin/keytool", *JVM, *export, *store, *PROVIDER, tmp_path / "java.cfg"], user.env, tmp_path)
    with Service(user, recipe, serve, tmp_path, ("127.0.0.1", port)) as server:
        for version in VERSIONS:
            check_server(port, tmp_path / "web.pem", version, SIGNATURES["ec"])
    assert ours(server.log) == []


def test_restart_of_the_tpm(swtpm: rig.Swtpm, new_user: type[rig.User], program: Path, tmp_path: Path) -> None:
    """A server goes on as if nothing had happened; nobody else is at this TPM, which has no resource manager."""
    user = new_user(swtpm, tmp_path)
    user.init("p11tpm", key_label="web")
    java = Java(user, tmp_path)
    certificate = java.file("web.pem")
    key = f"org.openssl.engine:pkcs11:pkcs11:object=web;type=private;pin-source=file:{user.pin_file}"
    request = ("req", "-new", "-x509", "-subj", "/CN=localhost", "-key", key, "-out", certificate)
    said(["/usr/bin/openssl", *request], {**user.env, "PKCS11_MODULE_PATH": user.module}, tmp_path)
    swtpm.flush()  # libp11 ends without C_Finalize
    user.p11tpm("cert", "import", certificate)
    port = free_port()
    server = rig.Process(tls(java, program, "serve", str(port)), tmp_path / "log", user.env)
    try:
        server.wait_listening(port)
        for version in (*VERSIONS, *VERSIONS):
            check_server(port, certificate, version, SIGNATURES["ec"])
            swtpm.restart()
    finally:
        server.stop()
    assert server.output() == ""
