"""Ed25519 and Ed448 keys in programs of others; those that know nothing of them go on with the other keys."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

import rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = b"what is signed\n"


class Programs:
    """Programs that run with the module of `user`, in `directory`."""

    def __init__(self, user: rig.User, directory: Path) -> None:
        self.user = user
        self.directory = directory
        user.env.update(PIN=user.pin, GNUTLS_PIN=user.pin)
        (directory / "data").write_bytes(DATA)

    def __call__(self, *command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=self.directory, env=self.user.env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def opensc(self, *arguments: str) -> str:
        return self("/usr/bin/pkcs11-tool", "--module", self.user.module, "--login", "--pin", "env:PIN", *arguments)

    def verify(self, public: str, signature: str) -> str:
        openssl = ("/usr/bin/openssl", "pkeyutl", "-verify", "-pubin", "-rawin", "-in", "data")
        return self(*openssl, "-inkey", public, "-sigfile", signature)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """A token with a P-256 key, and an Ed25519 key that OpenSC's tool has made."""
    with rig.Tabrmd(max_tries=32) as tpm:
        directory = tmp_path_factory.mktemp("eddsa")
        made = Programs(rig.User(tpm, directory), directory)
        made.user.init(label="test", key_label="p256")
        made.opensc("--keypairgen", "--key-type", "EC:edwards25519", "--id", "25", "--label", "ed")
        yield made


def test_opensc_signs_and_openssl_verifies(programs: Programs) -> None:
    programs.opensc("--sign", "--mechanism", "EDDSA", "--id", "25", "-i", "data", "-o", "signature")
    programs.user.public_pem("ed", programs.directory / "ed.pem")
    assert "Verified Successfully" in programs.verify("ed.pem", "signature")
    listed = programs.opensc("-O")
    assert "Private Key Object; EC_EDWARDS" in listed
    assert "Public Key Object; EC_EDWARDS" in listed
    assert "EDDSA, keySize={255,448}, sign, verify" in programs.opensc("-M")


def test_our_command_shows_and_exports_it(programs: Programs) -> None:
    assert "ed25519" in programs.user.p11tpm("key", "list")
    line = programs.user.public_key("ed")
    assert line.startswith("ssh-ed25519 ")


def test_openssh_goes_on_with_the_other_keys(programs: Programs) -> None:
    """OpenSSH 9.2 knows only RSA and ECDSA of PKCS#11."""
    assert "ecdsa-sha2-nistp256 " in programs("/usr/bin/ssh-keygen", "-D", programs.user.module)


def test_gnutls_lists_it(programs: Programs) -> None:
    command = ("/usr/bin/p11tool", "--provider", programs.user.module, "--login", "--list-all", "pkcs11:token=test")
    listed = programs(*command)
    assert "EdDSA" in listed
    assert "ECDSA" in listed
