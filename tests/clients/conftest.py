"""Users with keys, for tests of programs that know nothing of p11tpm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = {"ssh": "p256", "bigger": "p384", "work": "rsa2048"}


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.User]:
    """A user with three keys (labels and algorithms: KEYS) for all tests of a file, which must leave them alone."""
    with rig.Tabrmd(max_tries=32) as tpm:
        owner = rig.User(tpm, tmp_path_factory.mktemp("user"))
        (first, algorithm), *others = KEYS.items()
        owner.init(algorithm=algorithm, key_label=first)
        for label, algorithm in others:
            owner.generate(algorithm, label)
        yield owner


@pytest.fixture
def newcomer(tabrmd: rig.Tabrmd, tmp_path: Path) -> rig.User:
    """A user without a token, on `tabrmd`."""
    return rig.User(tabrmd, tmp_path)


@pytest.fixture(scope="module")
def sshd() -> Iterator[rig.Sshd]:
    with rig.Sshd() as server:
        yield server
