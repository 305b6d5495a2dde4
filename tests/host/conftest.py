"""Host programs, modules to load, and somebody with a key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from host.core import Core
from host.daemon import Syslog
from host.programs import Hosts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CSRC = Path(__file__).resolve().parents[2] / "csrc"


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    return Hosts(tmp_path_factory.mktemp("hosts"))


@pytest.fixture
def syslog(hosts: Hosts) -> Iterator[Syslog]:
    daemon = Syslog(hosts)
    yield daemon
    daemon.close()


@pytest.fixture(scope="session")
def write_bundle() -> Callable[[Path, Path], Path]:
    """The function of the build."""
    sys.path.insert(0, str(CSRC))
    try:
        from bundle import write_bundle
    finally:
        sys.path.remove(str(CSRC))
    return write_bundle


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload, which makes a terminal a TPM's device."""
    library = tmp_path_factory.mktemp("driver") / "driver.so"
    flags = ("-Wall", "-Werror", "-shared", "-fPIC")
    source = Path(__file__).with_name("driver.c")
    subprocess.run(["gcc", *flags, source, "-o", library, "-ldl"], timeout=60, check=True)
    return library


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    return Core(tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="session")
def exported(module_path: str) -> list[str]:
    """The names of all functions of the module."""
    done = subprocess.run(
        ["nm", "-D", "--defined-only", module_path], capture_output=True, text=True, timeout=60, check=True
    )
    return [line.split()[2] for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.User]:
    """Somebody with one key, on a TPM that several processes may use at a time."""
    with rig.Tabrmd(max_tries=32) as tpm:
        owner = rig.User(tpm, tmp_path_factory.mktemp("user"))
        owner.init()
        yield owner


@pytest.fixture
def owner(swtpm: rig.Swtpm, tmp_path: Path) -> rig.User:
    """Somebody with one key, on a TPM without a resource manager."""
    owner = rig.User(swtpm, tmp_path)
    owner.init()
    return owner


@pytest.fixture
def is_good(user: rig.User):
    """Return whether the last thing that a host said is a signature by the user's key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key(user.p11tpm("key", "public", "ssh", "--format", "pem").encode())

    def check(said: list[str]) -> bool:
        word, _, digits = said[-1].partition(" ")
        assert word == "signature", said
        signature = bytes.fromhex(digits)
        der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
        try:
            key.verify(der, b"\x11" * 32, ECDSA(Prehashed(SHA256())))
        except InvalidSignature:
            return False
        return True

    return check
