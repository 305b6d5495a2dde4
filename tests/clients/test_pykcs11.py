"""PyKCS11's own test-suite, from the sdist of the installed version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import rig
from rig.suites import Outcome, PythonSuite, make_token

PIN, SO_PIN = "1234", "123456"  # as they stand in the suite
PLUGIN = Path(__file__).with_name("library_version.py")

# what cannot pass, with what the suite wants; the error of one would hold its library open, and test_load counts them
NAMED = 'the names "SoftHSM" and "SoftHSM project"'
SCHEMES = "Ed25519ctx, Ed25519ph, Ed448ph and contexts: the package cryptography has none of them"
WANTED = {
    "test_asymetric_ECC.py::TestEDDSA::test_sign_test_vectors": SCHEMES,
    "test_asymetric_ECC.py::TestEDDSA::test_sign_text": SCHEMES,
    "test_LowLevel.py::TestUtil::test_LowLevel": NAMED,
    "test_info.py::TestUtil::test_getInfo": NAMED,
    "test_info.py::TestUtil::test_getSlotInfo": NAMED,
    "test_info.py::TestUtil::test_getTokenInfo": NAMED,
    "test_gc.py::TestUtil::test_gc": "CKR_OK from C_Logout before C_Login; the standard has CKR_USER_NOT_LOGGED_IN",
    "test_derive.py::TestUtil::test_deriveKey_CKM_EXTRACT_KEY_FROM_KEY": "this mechanism, in the list or not",
}
SKIPPED = {
    "test_asymetric_gost.TestUtil.test_gost": "GOST not supported by SoftHSMv2 on Windows?",
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    suite = PythonSuite("pykcs11", "test")
    directory = tmp_path_factory.mktemp("pykcs11")
    with rig.Tabrmd(max_tries=32) as tpm:
        user = rig.User(tpm, directory, pin=PIN, so_pin=SO_PIN)
        make_token(user.module, user.env, "PyKCS11", PIN, SO_PIN)
        env = {**user.env, "PYKCS11LIB": user.module, "PYTHONPATH": str(PLUGIN.parent)}
        return suite.run(directory, env, "-p", PLUGIN.stem, *(f"--deselect=test/{name}" for name in WANTED))


def test_all_passes_but_what_cannot(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\nPyKCS11: {len(outcome.passed)} passed, {len(outcome.skipped)} skipped")
        sys.stdout.writelines(f"\n   1 {name} wants {wanted}" for name, wanted in WANTED.items())
    assert outcome.broken == [], outcome.output
    assert len(outcome.passed) == 79, outcome.output


def test_every_skip_is_explained(outcome: Outcome) -> None:
    assert outcome.skipped == SKIPPED
