"""`pkcs11-tool --test --login`: what is OK with SoftHSM or with tpm2-pkcs11 is OK with p11tpm."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

import rig
from rig.peer import Peer, SoftHsm, Tpm2Pkcs11

if TYPE_CHECKING:
    from pathlib import Path


class Told(NamedTuple):
    """How the tool ended and what it wrote."""

    code: int
    output: str
    errors: str

    @classmethod
    def by(cls, module: str, env: dict[str, str]) -> Told:
        command = ["/usr/bin/pkcs11-tool", "--module", module, "--test", "--login", "--pin", "env:PIN"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        return cls(done.returncode, done.stdout, done.stderr)

    @property
    def fine(self) -> set[tuple[str, str]]:
        """The lines that say OK or that all is well, each with the heading above it."""
        found = set()
        heading = ""
        # a remark stands between a mechanism's name and its "OK"
        for line in re.sub(r"(: )[^\n]*defaulting[^\n]*\n(OK\n)", r"\1\2", self.output).splitlines():
            if not line.startswith(" "):
                heading = line.split(" (")[0]
            elif line.endswith(("OK", "seem to work")):
                found.add((heading, line.strip()))
        return found


# a peer's token has an RSA key only: the tool tests no EC keys, and the second key by one mechanism only
KEY = ("rsa:2048", "01", "rsa")


@pytest.fixture(scope="module")
def ours(tpm: rig.Tabrmd, tmp_path_factory: pytest.TempPathFactory) -> Told:
    user = rig.User(tpm, tmp_path_factory.mktemp("p11tpm"))
    user.init(algorithm="rsa2048")
    return Told.by(user.module, {**user.env, "PIN": user.pin})


def told_by(peer: Peer) -> Told:
    peer.generate(*KEY)
    return Told.by(peer.module, peer.env)


def check(ours: Told, theirs: Told) -> None:
    assert len(theirs.fine) > 5, theirs
    assert theirs.fine - ours.fine == set(), ours


def test_no_errors(ours: Told) -> None:
    assert (ours.code, "No errors" in ours.output) == (0, True), ours
    assert "ERR" not in ours.output + ours.errors
    assert "failed" not in ours.output + ours.errors


def test_all_that_softhsm_does(ours: Told, tmp_path: Path) -> None:
    check(ours, told_by(SoftHsm(tmp_path)))


def test_all_that_tpm2_pkcs11_does(ours: Told, tpm: rig.Tabrmd, tmp_path: Path) -> None:
    check(ours, told_by(Tpm2Pkcs11(tpm, tmp_path)))
