"""Test suites that other projects publish, and tokens as they expect them."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rig.process import clean_env

if TYPE_CHECKING:
    from collections.abc import Mapping

CACHE = Path(sys.prefix) / "suites"
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")


class Outcome(NamedTuple):
    """Names of tests by what became of them, with the reasons of the skipped ones, and what the suite printed."""

    passed: list[str]
    broken: list[str]
    skipped: dict[str, str]
    output: str

    @classmethod
    def read(cls, report: Path, output: str) -> Outcome:
        """Read pytest's JUnit report; a name is without the folder of the tests."""
        found = cls([], [], {}, output)
        for case in ET.parse(report).iter("testcase"):
            name = f"{case.get('classname', '').partition('.')[2]}.{case.get('name')}"
            skipped = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                found.broken.append(name)
            elif skipped is not None:
                found.skipped[name] = skipped.get("message", "")
            else:
                found.passed.append(name)
        return found


class PythonSuite:
    """The tests that the sdist of an installed package has in `folder`.

    They lie below `CACHE`, without the sources of the package, which would hide the installed one.
    """

    def __init__(self, package: str, folder: str) -> None:
        self.package = package
        self.version = metadata.version(package)
        self.folder = folder
        self.directory = CACHE / f"{package}-{self.version}"
        if not (self.directory / folder).is_dir():
            self._fetch()

    def _fetch(self) -> None:
        """As anybody gets it: the sdist, by pip, from where pip gets everything else."""
        CACHE.mkdir(exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-input", "--disable-pip-version-check"]
        env = {**clean_env(), **{name: os.environ[name] for name in os.environ if name.startswith("PIP_")}}
        what = ["--no-deps", "--no-binary", self.package, "--dest", str(CACHE), f"{self.package}=={self.version}"]
        done = subprocess.run([*pip, *what], env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        pattern = self.package.replace("-", "?")  # python-pkcs11's is python_pkcs11-0.10.1.tar.gz
        (archive,) = CACHE.glob(f"{pattern}-{self.version}.tar.gz")
        with tarfile.open(archive) as sdist:
            parts = ((member, Path(member.name).parts) for member in sdist.getmembers())
            for member, (_, *inner) in parts:
                file = sdist.extractfile(member) if inner[:1] == [self.folder] and ".." not in inner else None
                if file is not None:
                    target = self.directory.joinpath(*inner)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(file.read())

    def run(self, directory: Path, env: Mapping[str, str], *more: str) -> Outcome:
        """All tests, in `env`; the report goes to `directory`, `more` to pytest."""
        report = directory / "report.xml"
        options = ["-c", "/dev/null", "--rootdir", self.directory, "-p", "no:cacheprovider", "-q", "--tb=short"]
        done = subprocess.run(
            [sys.executable, "-B", "-m", "pytest", *options, f"--junitxml={report}", *more, self.folder],
            cwd=self.directory,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert report.exists(), done.stdout + done.stderr
        return Outcome.read(report, done.stdout)


def make_token(module: str | Path, env: Mapping[str, str], label: str, pin: str, so_pin: str) -> None:
    """A token without any object, which suites expect."""
    tool: list[str | Path] = ["/usr/bin/pkcs11-tool", "--module", module]
    so = ["--so-pin", "env:SO_PIN"]
    for command in (
        ["--init-token", "--slot-index", "0", "--label", label, *so],
        ["--init-pin", "--login", "--login-type", "so", *so, "--pin", "env:PIN"],
    ):
        subprocess.run(
            [*tool, *command],
            env={**env, "PIN": pin, "SO_PIN": so_pin},
            capture_output=True,
            timeout=60,
            check=True,
        )
