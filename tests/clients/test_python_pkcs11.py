"""python-pkcs11's own test-suite, from the sdist of the installed version, beside SoftHSM's result on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

import rig

VERSION = metadata.version("python-pkcs11")
CACHE = Path(sys.prefix) / "suites"
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
LABEL = "TEST"

# reasons of skips that are no defect, by the start of what the suite says, with the number of tests
EXPLAINED = {
    "Requires 15, 23": (6, "ML-KEM: PKCS#11 3.2, in no TPM of today"),
    "Requires 28, 29": (6, "ML-DSA: PKCS#11 3.2, in no TPM of today"),
    "Requires 4181, 4183": (2, "Ed25519 and Ed448: not in this TPM"),
}
# tests that want SoftHSM's own shape: they are not run, and counted as if they were skipped
SHAPE = {
    f"tests/test_slots_and_tokens.py::SlotsAndTokensTests::{name}": "a second, free slot, and no CKF_HW_SLOT"
    for name in ("test_get_slots", "test_get_tokens")
}


class Outcome(NamedTuple):
    """What pytest's JUnit report says: test names by outcome, reasons of the skipped ones."""

    passed: list[str]
    broken: list[str]
    skipped: dict[str, str]
    output: str

    @classmethod
    def read(cls, report: Path, output: str) -> Outcome:
        found = cls([], [], {}, output)
        for case in ET.parse(report).iter("testcase"):
            name = f"{case.get('classname', '').removeprefix('tests.')}.{case.get('name')}"
            skipped = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                found.broken.append(name)
            elif skipped is not None:
                found.skipped[name] = skipped.get("message", "")
            else:
                found.passed.append(name)
        return found


class Suite:
    """The suite's tests below `CACHE`, without the sources of the package, which would hide the installed one."""

    def __init__(self) -> None:
        self.directory = CACHE / f"python-pkcs11-{VERSION}"

    def fetch(self) -> None:
        """As anybody gets it: the sdist, by pip, from where pip gets everything else."""
        if (self.directory / "tests").is_dir():
            return
        CACHE.mkdir(exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-input", "--disable-pip-version-check"]
        env = {**rig.clean_env(), **{name: os.environ[name] for name in os.environ if name.startswith("PIP_")}}
        what = ["--no-deps", "--no-binary", "python-pkcs11", "--dest", str(CACHE), f"python-pkcs11=={VERSION}"]
        done = subprocess.run([*pip, *what], env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        (archive,) = CACHE.glob(f"python?pkcs11-{VERSION}.tar.gz")
        with tarfile.open(archive) as sdist:
            parts = ((member, Path(member.name).parts) for member in sdist.getmembers())
            for member, (_, *inner) in parts:
                file = sdist.extractfile(member) if inner[:1] == ["tests"] and ".." not in inner else None
                if file is not None:
                    target = self.directory.joinpath(*inner)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(file.read())

    def run(self, directory: Path, env: dict[str, str], *more: str, pin: str, so_pin: str) -> Outcome:
        """All tests, with the module in `env`; the report goes to `directory`, `more` to pytest."""
        report = directory / "report.xml"
        places = {"PKCS11_TOKEN_LABEL": LABEL, "PKCS11_TOKEN_PIN": pin, "PKCS11_TOKEN_SO_PIN": so_pin}
        options = ["-c", "/dev/null", "--rootdir", self.directory, "-p", "no:cacheprovider", "-q", "--tb=short"]
        done = subprocess.run(
            [sys.executable, "-B", "-m", "pytest", *options, f"--junitxml={report}", *more, "tests"],
            cwd=self.directory,
            env={**env, **places},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert report.exists(), done.stdout + done.stderr
        return Outcome.read(report, done.stdout)


def make_token(module: Path, env: dict[str, str], pin: str, so_pin: str) -> None:
    """A token without any object, which the suite expects."""
    tool: list[str | Path] = ["/usr/bin/pkcs11-tool", "--module", module]
    so = ["--so-pin", "env:SO_PIN"]
    for command in (
        ["--init-token", "--slot-index", "0", "--label", LABEL, *so],
        ["--init-pin", "--login", "--login-type", "so", *so, "--pin", "env:PIN"],
    ):
        subprocess.run(
            [*tool, *command],
            env={**env, "PIN": pin, "SO_PIN": so_pin},
            capture_output=True,
            timeout=60,
            check=True,
        )


@pytest.fixture(scope="module")
def suite() -> Suite:
    made = Suite()
    made.fetch()
    return made


@pytest.fixture(scope="module")
def softhsm(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    directory = tmp_path_factory.mktemp("softhsm")
    config = directory / "softhsm2.conf"
    tokens = directory / "tokens"
    tokens.mkdir()
    config.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    env = rig.clean_env(SOFTHSM2_CONF=str(config), PKCS11_MODULE=str(SOFTHSM))
    make_token(SOFTHSM, env, "1234", "5678")
    return suite.run(directory, env, pin="1234", so_pin="5678")


@pytest.fixture(scope="module")
def ours(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The module under SoftHSM's file name: else the suite leaves out the tests that it calls "SoftHSMv2 only"."""
    directory = tmp_path_factory.mktemp("p11tpm")
    with rig.Tabrmd(max_tries=32) as tpm:
        user = rig.User(tpm, directory)
        module = directory / SOFTHSM.name
        module.symlink_to(user.module)
        make_token(module, user.env, user.pin, user.so_pin)
        env = {**user.env, "PKCS11_MODULE": str(module), "PKCS11_MODULE2": str(SOFTHSM)}
        return suite.run(directory, env, *(f"--deselect={name}" for name in SHAPE), pin=user.pin, so_pin=user.so_pin)


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Tell it even if the test passes."""
    with capsys.disabled():
        sys.stdout.write(f"\n{text}")


def test_nothing_fails(ours: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    say(capsys, f"python-pkcs11 {VERSION}: {len(ours.passed)} passed, {len(ours.skipped)} skipped")
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
