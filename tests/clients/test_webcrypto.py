"""node-webcrypto-p11, WebCrypto for Node.js with keys in a token, from the npm registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rig
from rig.process import SYSTEM_PATH
from rig.program import openssl, said
from rig.suites import CACHE, make_token

PACKAGES = ("node-webcrypto-p11@2.8.0", "pkcs11js@2.1.7", "@peculiar/webcrypto-test@1.0.7")
PROGRAM = Path(__file__).with_name("webcrypto.js")
ROOM = CACHE / "-".join(package.replace("/", "-") for package in PACKAGES)

# names of tests that cannot pass
CURVE = "secp256k1"
WANTED = {
    "ECDH: Generate Key: K-256": CURVE,
    "ECDH: Derive bits: K-256 128": CURVE,
    "ECDSA: Generate Key: K-256": CURVE,
    "ECDSA: Sign/Verify: #2": CURVE,
}


def install() -> None:
    """As anybody gets it: by npm; the headers of Node.js are the machine's, which need no network."""
    if ROOM.is_dir():
        return
    new = ROOM.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    proxies = {name: os.environ[name] for name in os.environ if name.lower().startswith(("npm_config_", "node_extra"))}
    env = rig.clean_env(**{**proxies, "npm_config_nodedir": "/usr"})
    quiet = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    done = subprocess.run(
        ["npm", "install", "--prefix", new, *quiet, *PACKAGES],
        env=env,
        cwd=new,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    new.rename(ROOM)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What was wrong with each test, by its name."""
    install()
    directory = tmp_path_factory.mktemp("webcrypto")
    key = directory / "key.pem"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    new = ("req", "-new", "-key", key, "-subj", "/CN=node")
    documents = {"certificate": openssl(*new, "-x509"), "request": openssl(*new)}
    with rig.Tabrmd(max_tries=32) as tpm:
        user = rig.User(tpm, directory)
        make_token(user.module, user.env, "node", user.pin, user.so_pin)
        env = {**user.env, "MODULE": user.module, "PIN": user.pin, "DOCUMENTS": json.dumps(documents)}
        node = shutil.which("node", path=SYSTEM_PATH)
        assert node
        told = said([node, PROGRAM], {**env, "NODE_PATH": str(ROOM / "node_modules")}, directory)
    return dict(json.loads(line) for line in told.splitlines())


def test_all_passes_but_what_cannot(results: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {name: reason for name, reason in results.items() if reason}
    with capsys.disabled():
        sys.stdout.write(f"\nWebCrypto: {len(results) - len(wrong)} of {len(results)} passed")
        sys.stdout.writelines(f"\n   1 {name} wants {wanted}" for name, wanted in WANTED.items())
    assert set(wrong) == set(WANTED), wrong
    # so the program's library calls a code that is not in its list, here CKR_CURVE_NOT_SUPPORTED
    assert all(reason.startswith("CKR_VENDOR_DEFINED") for reason in wrong.values()), wrong


def test_nothing_is_left_out(results: dict[str, str]) -> None:
    """The vectors of 126 tests are of node-webcrypto-p11's algorithms."""
    own = [name for name in results if name.startswith("Storage: ")]
    assert (len(results) - len(own), len(own)) == (126, 9)
