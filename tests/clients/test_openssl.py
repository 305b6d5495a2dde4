"""OpenSSL through the pkcs11 engine of libp11: for one key only, and as the default for all algorithms."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import rig

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = {"rsa": "rsa:2048", "ec": "EC:prime256v1", "bigger": "EC:secp384r1"}
ENGINE = next(Path("/usr/lib").glob("*/engines-3/pkcs11.so"))
PSS = ("-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest")
OAEP = ("-pkeyopt", "rsa_padding_mode:oaep")
OAEP_SHA256 = (*OAEP, "-pkeyopt", "rsa_oaep_md:sha256")
DATA = b"what is signed or hidden\n"

# `req` wants its section even if it needs nothing of it
CONFIG = """openssl_conf = init
[init]
engines = engines
[engines]
pkcs11 = pkcs11
[pkcs11]
engine_id = pkcs11
dynamic_path = {engine}
MODULE_PATH = {module}
{more}
[req]
distinguished_name = name
[name]
"""


class Way(NamedTuple):
    """How a command comes to the engine: more options, and a line of its configuration."""

    options: tuple[str, ...] = ()
    line: str = ""


WAYS = {
    "one key": Way(),
    "-engine": Way(options=("-engine", "pkcs11")),  # makes it the default, too
    "default": Way(line="default_algorithms = ALL"),
}


class OpenSsl:
    """The openssl command, run in `directory`: plain, or with the engine by `way` and more lines of configuration."""

    def __init__(self, user: rig.User, module: str, directory: Path, way: Way, *lines: str) -> None:
        self.plain_env = user.env
        self.directory = directory
        self.way = way
        config = self.file("openssl.cnf")
        more = "\n".join([way.line, *lines])
        rig.write_secret(config, CONFIG.format(engine=ENGINE, module=module, more=more))
        self.engine_env = {**user.env, "OPENSSL_CONF": str(config)}
        self.pin_file = rig.write_secret(self.file("pin"), user.pin)  # libp11 takes a final newline for part of the PIN
        self.file("data").write_bytes(DATA)

    def file(self, name: str) -> Path:
        return self.directory / name

    def plain(self, *arguments: str | Path) -> bytes:
        """Openssl without any engine; what it prints."""
        return self._run(self.plain_env, *arguments)

    def engine(self, command: str, *arguments: str | Path) -> bytes:
        return self._run(self.engine_env, command, *self.way.options, *arguments)

    def _run(self, env: dict[str, str], *arguments: str | Path) -> bytes:
        done = subprocess.run(
            ["/usr/bin/openssl", *arguments], env=env, cwd=self.directory, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout

    def key(self, label: str) -> str:
        """Address of a private key in the token, wherever openssl takes a file name for one."""
        return f"org.openssl.engine:pkcs11:pkcs11:object={label};type=private;pin-source=file:{self.pin_file}"

    def digest(self) -> Path:
        path = self.file("digest")
        self.plain("dgst", "-sha256", "-binary", "-out", path, self.file("data"))
        return path


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.User]:
    """Somebody with keys for all purposes, as pkcs11-tool makes them."""
    with rig.Tabrmd(max_tries=32) as tpm:
        owner = rig.User(tpm, tmp_path_factory.mktemp("user"))
        owner.init()
        owner.env.update(PIN=owner.pin)
        tool = ["/usr/bin/pkcs11-tool", "--module", owner.module, "--login", "--pin", "env:PIN"]
        for number, (label, kind) in enumerate(KEYS.items(), 1):
            made = owner.run(*tool, "--keypairgen", "--key-type", kind, "--label", label, "--id", f"{number:02}")
            assert made.returncode == 0, made.stderr
        yield owner


@pytest.fixture(scope="module")
def module(user: rig.User) -> str:
    return user.module


@pytest.fixture(scope="module")
def certificates(user: rig.User, module: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the keys have signed for themselves, by label."""
    openssl = OpenSsl(user, module, tmp_path_factory.mktemp("certificates"), WAYS["-engine"])
    paths = {label: openssl.file(f"{label}.crt") for label in KEYS}
    for label, path in paths.items():
        openssl.engine("req", "-x509", "-key", openssl.key(label), "-subj", f"/CN={label}", "-out", path)
        openssl.plain("verify", "-check_ss_sig", "-CAfile", path, path)
    return paths


@pytest.fixture(params=WAYS)
def openssl(user: rig.User, module: str, tmp_path: Path, request: pytest.FixtureRequest) -> OpenSsl:
    return OpenSsl(user, module, tmp_path, WAYS[request.param])


def check_signature(openssl: OpenSsl, key: str, certificate: Path, *options: str) -> None:
    signature = openssl.file("signature")
    what = ("-in", openssl.digest(), "-pkeyopt", "digest:sha256", *options)
    openssl.engine("pkeyutl", "-sign", "-inkey", key, *what, "-out", signature)
    verify = ("-verify", "-certin", "-inkey", certificate)
    assert b"Verified" in openssl.plain("pkeyutl", *verify, *what, "-sigfile", signature)


@pytest.mark.parametrize(("label", "options"), [("rsa", ()), ("rsa", PSS), ("ec", ())], ids=["rsa", "rsa-pss", "ec"])
def test_sign(openssl: OpenSsl, certificates: dict[str, Path], label: str, options: tuple[str, ...]) -> None:
    check_signature(openssl, openssl.key(label), certificates[label], *options)


@pytest.mark.parametrize("options", [(), OAEP, OAEP_SHA256], ids=["pkcs1", "oaep", "oaep-sha256"])
def test_decrypt(openssl: OpenSsl, certificates: dict[str, Path], options: tuple[str, ...]) -> None:
    hidden = openssl.file("hidden")
    encrypt = ("-encrypt", "-certin", "-inkey", certificates["rsa"])
    openssl.plain("pkeyutl", *encrypt, "-in", openssl.file("data"), *options, "-out", hidden)
    assert openssl.engine("pkeyutl", "-decrypt", "-inkey", openssl.key("rsa"), "-in", hidden, *options) == DATA


@pytest.mark.parametrize(("label", "curve"), [("ec", "P-256"), ("bigger", "P-384")])
def test_derive(openssl: OpenSsl, certificates: dict[str, Path], label: str, curve: str) -> None:
    """ECDH: both sides find the same secret."""
    theirs, their_public, our_public = (openssl.file(name) for name in ("theirs", "theirs.pub", "ours.pub"))
    openssl.plain("genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-out", theirs)
    openssl.plain("pkey", "-in", theirs, "-pubout", "-out", their_public)
    our_public.write_bytes(openssl.plain("x509", "-in", certificates[label], "-pubkey", "-noout"))
    ours = openssl.engine("pkeyutl", "-derive", "-inkey", openssl.key(label), "-peerkey", their_public)
    assert ours == openssl.plain("pkeyutl", "-derive", "-inkey", theirs, "-peerkey", our_public)


def read_message(openssl: OpenSsl, label: str, certificate: Path) -> bytes:
    key = ("-inkey", openssl.key(label), "-recip", certificate)
    return openssl.engine("cms", "-decrypt", *key, "-inform", "DER", "-in", openssl.file("message"))


def message_form(openssl: OpenSsl) -> tuple[str | Path, ...]:
    return ("-binary", "-outform", "DER", "-out", openssl.file("message"), "-in", openssl.file("data"))


@pytest.mark.parametrize("label", ["rsa", "ec"])
def test_cms(openssl: OpenSsl, certificates: dict[str, Path], label: str) -> None:
    """A message for the owner of the certificate, written with and without the engine."""
    for write in (openssl.plain, openssl.engine):
        write("cms", "-encrypt", *message_form(openssl), "-aes256", "-recip", certificates[label])
        assert read_message(openssl, label, certificates[label]) == DATA


def test_cms_by_oaep(openssl: OpenSsl, certificates: dict[str, Path]) -> None:
    """Written without the engine: where libp11 is the default, openssl cannot set the padding even of other keys."""
    recipient = ("-aes256", "-recip", certificates["rsa"], "-keyopt", "rsa_padding_mode:oaep")
    openssl.plain("cms", "-encrypt", *message_form(openssl), *recipient)
    assert read_message(openssl, "rsa", certificates["rsa"]) == DATA


@pytest.mark.parametrize("label", ["rsa", "ec"])
def test_signed_cms(openssl: OpenSsl, certificates: dict[str, Path], label: str) -> None:
    key = ("-signer", certificates[label], "-inkey", openssl.key(label), "-nodetach")
    openssl.engine("cms", "-sign", *key, *message_form(openssl))
    trust = ("-CAfile", certificates[label], "-purpose", "any")
    read = openssl.plain("cms", "-verify", "-binary", "-inform", "DER", "-in", openssl.file("message"), *trust)
    assert read == DATA


def test_keys_in_files(openssl: OpenSsl) -> None:
    """They work as ever in a process that has the engine."""
    key, signature = openssl.file("key"), openssl.file("signature")
    openssl.engine("genpkey", "-algorithm", "RSA", "-out", key)
    what = ("-in", openssl.digest(), "-pkeyopt", "digest:sha256")
    openssl.engine("pkeyutl", "-sign", "-inkey", key, *what, "-out", signature)
    openssl.plain("pkeyutl", "-verify", "-inkey", key, *what, "-sigfile", signature)


def test_pin_in_the_configuration(user: rig.User, module: str, certificates: dict[str, Path], tmp_path: Path) -> None:
    openssl = OpenSsl(user, module, tmp_path, WAYS["default"], f"PIN = {user.pin}")
    check_signature(openssl, "org.openssl.engine:pkcs11:pkcs11:object=ec;type=private", certificates["ec"])


def test_signatures_in_a_row_without_a_resource_manager(swtpm: rig.Swtpm, tmp_path: Path) -> None:
    """Libp11 never calls C_Finalize: what each run loads is flushed all the same."""
    user = rig.User(swtpm, tmp_path)
    user.init()
    openssl = OpenSsl(user, user.module, tmp_path, WAYS["-engine"])
    public = user.public_pem("ssh", openssl.file("public.pem"))
    signature, data = openssl.file("signature"), openssl.file("data")
    for _ in range(10):
        key = ("-keyform", "engine", "-sign", openssl.key("ssh").removeprefix("org.openssl.engine:pkcs11:"))
        openssl.engine("dgst", "-sha256", *key, "-out", signature, data)
        openssl.plain("dgst", "-sha256", "-verify", public, "-signature", signature, data)
        assert swtpm.loaded() == []
