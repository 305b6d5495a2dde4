"""Users with keys, for tests of programs that know nothing of p11tpm; and the same users with tpm2-pkcs11."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import rig
from clients.report import OURS, PEER, Report, is_peer
from rig.network import Network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRODUCTS = {OURS: rig.User, PEER: rig.PeerUser}

KEYS = {"ssh": "p256", "bigger": "p384", "work": "rsa2048"}


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--table") and not hasattr(config, "workerinput"):  # pytest-xdist's workers report to one
        config.pluginmanager.register(Report(config.getoption("--table")))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "product" in metafunc.fixturenames:
        products = [OURS, PEER] if metafunc.config.getoption("--peer") else [OURS]
        metafunc.parametrize("product", products, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_peer(item):
            item.add_marker(pytest.mark.xfail(reason=f"{PEER} is only compared", strict=False))


@pytest.fixture(scope="session")
def new_user(product: str) -> type[rig.User]:
    """`new_user(tpm, directory)`: a user without a token, of the product under test."""
    return PRODUCTS[product]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.User]:
    """A user with three keys (labels and algorithms: KEYS) for all tests of a file, which must leave them alone."""
    with rig.Tabrmd(max_tries=32) as tpm:
        owner = rig.User(tpm, tmp_path_factory.mktemp("user"))
        owner.init_keys(KEYS)
        yield owner


@pytest.fixture
def newcomer(tabrmd: rig.Tabrmd, tmp_path: Path) -> rig.User:
    """A user without a token, on `tabrmd`."""
    return rig.User(tabrmd, tmp_path)


@pytest.fixture(scope="module")
def sshd() -> Iterator[rig.Sshd]:
    with rig.Sshd() as server:
        yield server


@pytest.fixture(scope="module")
def tpm() -> Iterator[rig.Tabrmd]:
    """One for all tests of a file."""
    with rig.Tabrmd(max_tries=32) as broker:
        yield broker


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A network of our own."""
    with Network() as ours:
        yield ours
