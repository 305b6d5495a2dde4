"""Copies of the module in one process: each works by itself, or says why not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from host.core import build

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "p11tpm"


@pytest.fixture
def copy(user, tmp_path) -> Path:
    """The module once more, as p11-kit has one and a program another."""
    return Path(shutil.copy(user.module, tmp_path / "copy.so"))


@pytest.mark.parametrize("attempt", range(10))
@pytest.mark.parametrize("how", ["together", "in_turn"])
def test_two_copies(hosts, user, is_good, copy, how, attempt):
    """Neither notices sessions, the login and the end of the other; `together`: two threads initialise them at once."""
    paths = (user.module, copy) if attempt % 2 else (copy, user.module)
    first, *signature = hosts("copies", how, *paths, env=user.env)
    assert first == "the first: 0x190"
    assert is_good(signature)


def test_copies_of_different_code(hosts, user, syslog, is_good, tmp_path):
    """What lies below the C boundary is there once, so it cannot be of two versions: the second is refused."""
    shutil.copytree(PACKAGE, tmp_path / "code" / "p11tpm", ignore=shutil.ignore_patterns("__pycache__"))
    other = tmp_path / "other.so"
    build(other, tmp_path / "code")
    for first, second in ((user.module, other), (other, user.module)):
        done = subprocess.run(
            [hosts.program("copies"), "beside", first, second],
            env={**user.env, **syslog.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        answer, signature = done.stderr.splitlines()
        (reason,) = syslog.lines()
        assert (done.returncode, done.stdout, answer) == (0, "", "> the second: 0x5")
        places = {user.module: PACKAGE, other: tmp_path / "code" / "p11tpm"}
        assert f"has loaded its code from {places[first]}, this one's is in {places[second]}; let p11-kit" in reason
        assert str(second) in reason
        assert is_good([signature.removeprefix("> ")])


def test_copies_in_a_python_program(user, copy):
    code = """
import sys
from guest import Guest
guests = [Guest(path, holds_gil=False) for path in sys.argv[1:]]
print([guest.C_Initialize(None) for guest in guests], [guest.random() for guest in guests])
print(guests[0].C_Finalize(None), guests[1].random(), guests[0].C_Initialize(None), guests[0].random())
print([guest.C_Finalize(None) for guest in guests])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, user.module, copy],
        env={**user.env, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", "[0, 0] [True, True]\n0 True 0 True\n[0, 0]\n")


def test_copies_and_forks(hosts, user, copy):
    """A child begins anew with both, while threads of its parent are in both."""
    assert hosts("copies", "forks", user.module, copy, env=user.env) == ["good 10"]
