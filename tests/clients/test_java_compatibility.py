"""Java with the line `attributes = compatibility`: keys that its program makes or imports may be read and wrapped."""

from __future__ import annotations

from pathlib import Path

import pytest

import rig
from rig.program import Pkcs12, said
from rig.suites import make_token

SOURCE = Path(__file__).with_name("Compatibility.java")
# a short run: no second compiler, and no file in the machine's /tmp
JVM = ("-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto")
TESTS = (
    *("RSA 1024", "RSA 2048", "EC 256", "EC 384", "EC 521", "DSA", "DH"),
    *("AES 128", "AES 192", "AES 256", "wrapped", "HMAC"),
    *("EC of elsewhere", "RSA of elsewhere", "AES of elsewhere"),
    *("RSA kept", "EC kept"),
)

# until 17.0.15 at least, Java takes a failed question for the numbers of an RSA key in the token for an answer
DEFECT = {"RSA kept": "java.lang.RuntimeException: Not a byte[]"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What was wrong with each test, by its name."""
    directory = tmp_path_factory.mktemp("java")
    with rig.Tabrmd(max_tries=32) as tpm:
        user = rig.User(tpm, directory)
        make_token(user.module, user.env, "java", user.pin, user.so_pin)
        config = directory / "pkcs11.cfg"
        config.write_text(f'name = token\nlibrary = "{user.module}"\nslotListIndex = 0\nattributes = compatibility\n')
        files = []
        for kind, algorithm in ("rsa", "rsa:2048"), ("ec", "ec"):
            (directory / kind).mkdir()
            files.append(Pkcs12(directory / kind, kind, algorithm, user.pin_file).file)
        command = ["/usr/bin/java", *JVM, SOURCE, config, *files]
        told = said(command, {**user.env, "PIN": user.pin}, directory)
    return dict(line.split("\t") for line in told.splitlines())


@pytest.mark.parametrize("name", TESTS)
def test_as_java_s_own_providers_have_it(results: dict[str, str], name: str) -> None:
    assert results[name] in {"", DEFECT.get(name, "")}


def test_nothing_is_left_out(results: dict[str, str]) -> None:
    assert tuple(results) == TESTS
