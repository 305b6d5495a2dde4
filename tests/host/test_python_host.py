"""The host is Python itself: one of the same version lends its interpreter, another one is refused, with a way out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rig
from rig.p11_kit import P11Kit, variable

HERE = Path(__file__).resolve().parent
GENERAL_ERROR = 5


def pythons():
    """Find the Pythons 3 of this machine that have ctypes: (version, program), each installation once."""
    names = [f"python3.{minor}" for minor in range(6, 20)]
    found = [sys.executable, *(shutil.which(name, path=rig.clean_env()["PATH"]) for name in names)]
    found += sorted(Path.home().glob(".pyenv/versions/*/bin/python3"))
    every = {}
    for program in filter(None, found):
        ask = "import ctypes, sys; print('%d.%d' % sys.version_info[:2], sys.prefix)"
        done = subprocess.run([program, "-c", ask], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            version, _, prefix = done.stdout.strip().partition(" ")
            every.setdefault(prefix, (version, str(program)))
    return sorted(every.values())


OURS = "{}.{}".format(*sys.version_info[:2])
PYTHONS = pythons()
SAME = [program for version, program in PYTHONS if version == OURS]
OTHERS = [pytest.param(program, id=version) for version, program in PYTHONS if version != OURS]


def run(python, module, what, env, prefix=()):
    command = [*prefix, python, "-I", str(HERE / "guest.py"), str(module), what]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("python", SAME)
def test_the_same_version(user, python):
    told, stderr = run(python, user.module, "start", user.env)
    before, after = told.pop("path before"), told.pop("path after")
    assert told == {"initialize": 0, "streams": True, "random": True, "finalize": 0, "again": [0, True, 0]}
    assert stderr == ""
    assert after[: len(before)] == before
    assert len(set(after)) == len(after)


@pytest.mark.parametrize("python", SAME)
def test_the_same_version_forks(owner, python):
    told, stderr = run(python, owner.module, "fork", owner.env)
    assert told == {"initialize": 0, "first": True, "os": 10, "C": 10, "failures": 0, "finalize": 0}, stderr


@pytest.mark.parametrize("python", SAME)
def test_forks_while_libcrypto_is_used_for_the_first_time(hosts, owner, python):
    slow = hosts.program("slow", "-shared", "-fPIC")
    told, stderr = run(python, owner.module, "cold", {**owner.env, "LD_PRELOAD": str(slow)})
    assert told == {"initialize": 0, "good": 20, "failures": 0, "finalize": 0}, stderr


@pytest.mark.parametrize("python", SAME)
def test_calls_that_hold_the_gil(user, python):
    told, _ = run(python, user.module, "gil", user.env)
    assert told == {"initialize": [0] + [0x191] * 7, "random": True, "finalize": 0}


@pytest.mark.parametrize("python", SAME)
def test_an_end_without_finalize(user, python):
    told, stderr = run(python, user.module, "leave", user.env)
    assert (told, stderr) == ({"initialize": 0, "random": True}, "")


def is_refused(lines, version, module):
    (line,) = lines
    assert re.match(rf"this program is Python {re.escape(version)}\S*, but ", line)
    assert f" but the module was built for Python {OURS};" in line
    assert f"remote: |p11-kit remote '{module}'" in line


@pytest.mark.parametrize("python", OTHERS or [pytest.param(None, marks=pytest.mark.skip("no other Python here"))])
def test_another_version_is_refused(user, syslog, python):
    told, stderr = run(python, user.module, "start", {**user.env, **syslog.env})
    assert stderr == ""
    assert told["initialize"] == GENERAL_ERROR
    assert told["path before"] == told["path after"]
    version = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.strip()
    is_refused(syslog.lines(), version, user.module)


@pytest.mark.parametrize("version", ["3.99.1 (main, Jan  1 2031)", f"{OURS}9.0", "2.7.18", "4.0"])
def test_a_program_that_says_it_is_another_version(hosts, syslog, module_path, version):
    """Nothing but Py_GetVersion may be called in it: the other functions of this one abort."""
    host = hosts.program("impostor", "-rdynamic", f'-DVERSION="{version}"')
    *_, said = hosts(host, module_path, env=rig.clean_env(**syslog.env))
    assert said == "C_Initialize 0x5"
    is_refused(syslog.lines(), version.split()[0], module_path)


@pytest.fixture
def remote(user, tmp_path, p11_kit_settings):  # noqa: ARG001 - for as long as they are read
    """p11-kit, which runs the module in a process of its own, as the message advises."""
    return P11Kit(user.env, tmp_path, f"remote: |p11-kit remote '{user.module}'\n")


def test_the_way_out_in_c(hosts, remote, is_good):
    assert is_good(hosts("sign", variable("proxy_module"), env=remote.env, prefix=remote.prefix))


@pytest.mark.parametrize("python", OTHERS or [pytest.param(None, marks=pytest.mark.skip("no other Python here"))])
def test_the_way_out_in_another_python(remote, python):
    told, _ = run(python, variable("proxy_module"), "start", remote.env, remote.prefix)
    assert (told["initialize"], told["random"], told["finalize"]) == (0, True, 0)
