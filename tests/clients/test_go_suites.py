"""The test-suites of miekg/pkcs11 and of crypto11, through which nearly all programs in Go come to tokens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

import rig
from rig.golang import go
from rig.suites import make_token

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PIN, SO_PIN, LABEL = "1234", "12345678", "softhsm token"  # as they stand in miekg/pkcs11's


class Suite(NamedTuple):
    """A suite in Debian's `package`: what it has besides the tests that pass, with what those want."""

    package: str
    path: str
    passing: int
    wanted: Mapping[str, str]


SUITES = {
    "miekg": Suite(
        "golang-github-miekg-pkcs11-dev",
        "github.com/miekg/pkcs11",
        14,
        {"TestGetInfo": 'the name "SoftHSM"'},
    ),
    "crypto11": Suite(
        "golang-github-thalesignite-crypto11-dev",
        "github.com/ThalesIgnite/crypto11",
        38,
        {
            "TestHmac": "nShield's mechanisms; for an unknown one, codes that the standard has for other errors",
            "TestThreadedRSA": "time: half a minute, much of it asleep",
        },
    ),
}


def results(program: Path, directory: Path, env: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """What became of each test by its name, and what the suite printed."""
    done = subprocess.run(
        [program, "-test.v", "-test.short"],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    found = re.findall(r"^--- (PASS|FAIL|SKIP): (Test\w+) ", done.stdout, re.MULTILINE)
    return {name: result for result, name in found}, done.stdout + done.stderr


@pytest.mark.parametrize("name", SUITES)
def test_all_passes_but_what_cannot(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = SUITES[name]
    program = go("test", "-c", name=name, what=suite.path, package=suite.package)
    with rig.Tabrmd(max_tries=32) as tpm:
        user = rig.User(tpm, tmp_path, pin=PIN, so_pin=SO_PIN)
        make_token(user.module, user.env, LABEL, PIN, SO_PIN)
        (tmp_path / "config").write_text(json.dumps({"Path": user.module, "TokenLabel": LABEL, "Pin": PIN}))
        found, output = results(program, tmp_path, {**user.env, "SOFTHSM_LIB": user.module})
    passed = [test for test, result in found.items() if result == "PASS"]
    with capsys.disabled():
        sys.stdout.write(f"\n{suite.path}: {len(passed)} passed")
        sys.stdout.writelines(f"\n   1 {test} wants {wanted}" for test, wanted in suite.wanted.items())
    assert set(found) - set(passed) == set(suite.wanted), output
    assert len(passed) == suite.passing, output
