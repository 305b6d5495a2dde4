"""python-pkcs11's own test-suite, from the sdist of the installed version, beside SoftHSM's result on this machine."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import rig
from rig.suites import SOFTHSM, Outcome, PythonSuite, make_token

if TYPE_CHECKING:
    from pathlib import Path

LABEL = "TEST"

# reasons of skips that are not a defect, by the start of what the suite says, with the number of tests
EXPLAINED = {
    "Requires 15, 23": (6, "ML-KEM: PKCS#11 3.2, in no TPM of today"),
    "Requires 28, 29": (6, "ML-DSA: PKCS#11 3.2, in no TPM of today"),
}
# tests that want SoftHSM's own shape: they are not run, and counted as if they were skipped
SHAPE = {
    f"tests/test_slots_and_tokens.py::SlotsAndTokensTests::{name}": "a second, free slot, and no CKF_HW_SLOT"
    for name in ("test_get_slots", "test_get_tokens")
}


@pytest.fixture(scope="module")
def suite() -> PythonSuite:
    return PythonSuite("python-pkcs11", "tests")


def run(suite: PythonSuite, directory: Path, env: dict[str, str], *more: str, pin: str, so_pin: str) -> Outcome:
    places = {"PKCS11_TOKEN_LABEL": LABEL, "PKCS11_TOKEN_PIN": pin, "PKCS11_TOKEN_SO_PIN": so_pin}
    return suite.run(directory, {**env, **places}, *more)


@pytest.fixture(scope="module")
def softhsm(suite: PythonSuite, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    directory = tmp_path_factory.mktemp("softhsm")
    config = directory / "softhsm2.conf"
    tokens = directory / "tokens"
    tokens.mkdir()
    config.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    env = rig.clean_env(SOFTHSM2_CONF=str(config), PKCS11_MODULE=str(SOFTHSM))
    make_token(SOFTHSM, env, LABEL, "1234", "5678")
    return run(suite, directory, env, pin="1234", so_pin="5678")


@pytest.fixture(scope="module")
def ours(suite: PythonSuite, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The module under SoftHSM's file name: else the suite leaves out the tests that it calls "SoftHSMv2 only"."""
    directory = tmp_path_factory.mktemp("p11tpm")
    with rig.Tabrmd(max_tries=32) as tpm:
        user = rig.User(tpm, directory)
        module = directory / SOFTHSM.name
        module.symlink_to(user.module)
        make_token(module, user.env, LABEL, user.pin, user.so_pin)
        env = {**user.env, "PKCS11_MODULE": str(module), "PKCS11_MODULE2": str(SOFTHSM)}
        left_out = (f"--deselect={name}" for name in SHAPE)
        return run(suite, directory, env, *left_out, pin=user.pin, so_pin=user.so_pin)


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Tell it even if the test passes."""
    with capsys.disabled():
        sys.stdout.write(f"\n{text}")


def test_nothing_fails(suite: PythonSuite, ours: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    say(capsys, f"python-pkcs11 {suite.version}: {len(ours.passed)} passed, {len(ours.skipped)} skipped")
    assert ours.broken == [], ours.output


def test_every_skip_is_explained(ours: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    counts = Counter(ours.skipped.values())
    for reason, count in counts.items():
        say(capsys, f"{count:4} {reason}: {EXPLAINED.get(reason, (0, '?'))[1]}")
    for name, wanted in SHAPE.items():
        say(capsys, f"   1 {name} wants {wanted}")
    assert counts == {reason: count for reason, (count, _) in EXPLAINED.items()}


def test_no_worse_than_softhsm(ours: Outcome, softhsm: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    say(capsys, f"SoftHSM: {len(softhsm.passed)} passed, {len(softhsm.skipped)} skipped")
    assert softhsm.broken == [], softhsm.output
    assert len(ours.passed) >= len(softhsm.passed)
    assert len(ours.skipped) + len(SHAPE) <= len(softhsm.skipped)
