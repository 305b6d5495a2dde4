"""p11-kit: the module in a process of its own, by `remote:` and by a server behind a socket; and by p11-kit's proxy."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from rig.deadline import killed_after
from rig.p11_kit import P11Kit
from rig.process import answers, wait_until
from rig.program import openssl, ours, said
from rig.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("p11_kit_settings")

LIST, REMOTE, UNIT, CLIENT = range(4)  # blocks of the recipe
KEYS = {"rsa": "rsa2048", "ec": "p256"}
LIBRARIES = Path("/usr/lib")
PROXY = next(LIBRARIES.glob("*/p11-kit-proxy.so"))
SOCKET_MODULE = next(LIBRARIES.glob("*/pkcs11/p11-kit-client.so"))
# signs once for each line of its input, and tells how that went
SIGNER = """
import sys
import pkcs11

module, pin = sys.argv[1:]
token = pkcs11.lib(module).get_token(token_label="p11tpm")
with token.open(user_pin=pin) as session:
    key = session.get_key(label="ec", object_class=pkcs11.ObjectClass.PRIVATE_KEY)
    for _ in sys.stdin:
        try:
            print(len(key.sign(bytes(32), mechanism=pkcs11.Mechanism.ECDSA)), flush=True)
        except pkcs11.exceptions.PKCS11Error as error:
            print(type(error).__name__, flush=True)
"""


def with_keys(user: rig.User) -> rig.User:
    user.create_token()
    for label, algorithm in KEYS.items():
        user.generate(algorithm, label)
    return user


@pytest.fixture(scope="module")
def owner(tpm: rig.Tabrmd, new_user: type[rig.User], tmp_path_factory: pytest.TempPathFactory) -> rig.User:
    return with_keys(new_user(tpm, tmp_path_factory.mktemp("user")))


@pytest.fixture(params=["module", "remote"])
def settings(owner: rig.User, tmp_path: Path, request: pytest.FixtureRequest) -> P11Kit:
    """What `make install` writes, and what the recipe puts in its place."""
    texts = {"module": f"module: {owner.module}\n", "remote": Recipe.of(owner, "p11-kit").text(REMOTE)}
    return P11Kit(owner.env, tmp_path, texts[request.param])


class Server:
    """The server that the unit of the recipe starts, below `runtime`, which is the user's $XDG_RUNTIME_DIR."""

    def __init__(self, user: rig.User, runtime: Path) -> None:
        self.user = user
        self.runtime = runtime
        self.socket = runtime / "p11-kit" / "pkcs11"
        (command,) = re.findall("^ExecStart=(.*)$", Recipe.of(user, "p11-kit").text(UNIT), re.MULTILINE)
        self._command = shlex.split(command.replace("%t", str(runtime)))
        self._signer = runtime / "signer.py"
        self._signer.write_text(SIGNER)
        self.env = rig.clean_env(XDG_RUNTIME_DIR=str(runtime), P11_KIT_SERVER_ADDRESS=f"unix:path={self.socket}")
        self.start()

    def start(self) -> None:
        """Start it, as systemd would: RuntimeDirectory= is new each time."""
        self.socket.unlink(missing_ok=True)
        self.socket.parent.mkdir(exist_ok=True)
        self.process = rig.Process(self._command, self.runtime / "log", self.user.env)
        wait_until(lambda: answers(self.socket), "p11-kit server")

    def tool(self, *arguments: str | Path, refused: str = "") -> str:
        """Have pkcs11-tool do it by the socket: its environment has nothing else of the TPM or the store."""
        env = {**self.env, "PIN": self.user.pin, "WRONG": "654321"}
        return said(["/usr/bin/pkcs11-tool", "--module", SOCKET_MODULE, *arguments], env, self.runtime, refused)

    def signer(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-B", self._signer, SOCKET_MODULE, self.user.pin]
        return subprocess.Popen(command, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def server(owner: rig.User, tmp_path: Path) -> Iterator[Server]:
    runtime = tmp_path / "run"
    runtime.mkdir()
    running = Server(owner, runtime)
    yield running
    running.process.stop()


def next_from(signer: subprocess.Popen[str]) -> str:
    """What one more signature brings."""
    assert signer.stdin is not None
    assert signer.stdout is not None
    signer.stdin.write("\n")
    signer.stdin.flush()
    with killed_after(signer.pid):
        return signer.stdout.readline().strip()


def end(signer: subprocess.Popen[str]) -> None:
    signer.communicate(timeout=30)


def check_signature(label: str, public: Path, directory: Path, *command: str | Path, env: dict[str, str]) -> None:
    """Have a digest signed by `command`, pkcs11-tool with a module; openssl takes the signature for good."""
    data, signature = directory / "data", directory / f"signature-{label}"
    data.write_bytes(bytes(range(32)))
    mechanism = {
        "rsa": ("RSA-PKCS-PSS", "--hash-algorithm", "SHA256", "--salt-len", "32"),
        "ec": ("ECDSA", "--signature-format", "openssl"),
    }[label]
    files = ("--input-file", data, "--output-file", signature)
    listed = said([*command, "--list-objects", "--type", "pubkey"], env, directory)
    (number,) = re.findall(rf"label: +{label}\n +ID: +(\w+)", listed)
    by = ("--login", "--pin", "env:PIN", "--sign", "--id", number, "--mechanism", *mechanism)
    told = said([*command, *by, *files], env, directory)
    assert ours(listed + told) == []
    pss = ("-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:32") if label == "rsa" else ()
    options = ("-verify", "-pubin", "-inkey", public, "-in", data, "-sigfile", signature, "-pkeyopt", "digest:sha256")
    openssl("pkeyutl", *options, *pss)


def test_list_modules(owner: rig.User, settings: P11Kit, tmp_path: Path) -> None:
    block = Recipe.of(owner, "p11-kit").blocks[LIST]["text"]
    told = said(settings.command("/bin/sh", "-euc", block), settings.env, tmp_path)
    assert re.search(r"^ *token: p11tpm$", told, re.MULTILINE), told


@pytest.mark.parametrize("label", KEYS)
def test_proxy(owner: rig.User, settings: P11Kit, tmp_path: Path, label: str) -> None:
    public = owner.public_pem(label, tmp_path / "public")
    command = settings.command("/usr/bin/pkcs11-tool", "--module", PROXY, "--token-label", "p11tpm")
    check_signature(label, public, tmp_path, *command, env={**settings.env, "PIN": owner.pin})


def test_proxy_refuses_a_wrong_pin(settings: P11Kit, tpm: rig.Tabrmd, tmp_path: Path) -> None:
    before = tpm.swtpm.lockout_counter()
    command = settings.command("/usr/bin/pkcs11-tool", "--module", PROXY, "--token-label", "p11tpm")
    by = ("--login", "--pin", "env:PIN", "--list-objects")
    said([*command, *by], {**settings.env, "PIN": "654321"}, tmp_path, refused="CKR_PIN_INCORRECT")
    assert tpm.swtpm.lockout_counter() == before + 1


def test_the_unit_is_one(owner: rig.User, tmp_path: Path) -> None:
    unit = tmp_path / "p11-kit-server.service"
    unit.write_text(Recipe.of(owner, "p11-kit").text(UNIT))
    env = rig.clean_env(XDG_RUNTIME_DIR=str(tmp_path))
    assert said(["/usr/bin/systemd-analyze", "verify", "--man=no", "--user", unit], env, tmp_path) == ""


def test_server_lists_its_objects(server: Server, tmp_path: Path) -> None:
    recipe = Recipe.of(server.user, "p11-kit")
    told = said(["/bin/sh", "-euc", recipe.blocks[CLIENT]["text"]], server.env, tmp_path)
    assert sorted(re.findall(r"label: +(\w+)", told)) == sorted(KEYS)


@pytest.mark.parametrize("label", KEYS)
def test_server_signs(server: Server, tmp_path: Path, label: str) -> None:
    public = server.user.public_pem(label, tmp_path / "public")
    env = {**server.env, "PIN": server.user.pin}
    check_signature(label, public, tmp_path, "/usr/bin/pkcs11-tool", "--module", SOCKET_MODULE, env=env)
    assert ours(server.process.output()) == []


def test_server_generates_and_deletes(server: Server) -> None:
    login = ("--login", "--pin", "env:PIN")
    server.tool(*login, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "new", "--id", "0abc")
    assert server.tool(*login, "--list-objects", "--label", "new").count("label:      new\n") == 2
    for kind in ("privkey", "pubkey"):
        server.tool(*login, "--delete-object", "--type", kind, "--label", "new")


def test_server_has_several_clients_at_a_time(server: Server) -> None:
    signers = [server.signer() for _ in range(4)]
    try:
        with ThreadPoolExecutor(len(signers)) as pool:
            for _ in range(5):
                assert list(pool.map(next_from, signers)) == ["64"] * len(signers)
    finally:
        for signer in signers:
            end(signer)
    assert ours(server.process.output()) == []


def test_server_refuses_a_wrong_pin(server: Server, tpm: rig.Tabrmd) -> None:
    before = tpm.swtpm.lockout_counter()
    server.tool("--login", "--pin", "env:WRONG", "--list-objects", refused="CKR_PIN_INCORRECT")
    assert tpm.swtpm.lockout_counter() == before + 1
    server.tool("--login", "--pin", "env:PIN", "--list-objects")


def test_server_killed_and_restarted(server: Server) -> None:
    """A connected client stays so, since each client has a process of its own there; others come again."""
    signer = server.signer()
    assert next_from(signer) == "64"
    server.process.kill()
    server.tool("--list-objects", refused="No slot")
    server.start()
    assert "label:      ec" in server.tool("--list-objects")
    assert next_from(signer) == "64"
    end(signer)


def test_restart_of_the_tpm(swtpm: rig.Swtpm, new_user: type[rig.User], tmp_path: Path) -> None:
    user = new_user(swtpm, tmp_path)
    user.init("p11tpm", key_label="ec")
    server = Server(user, tmp_path)
    try:
        signer = server.signer()
        for _ in range(3):
            assert next_from(signer) == "64"
            swtpm.restart()
        end(signer)
    finally:
        server.process.stop()
    assert ours(server.process.output()) == []
