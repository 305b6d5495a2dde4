"""A host with other rights than its caller's (AT_SECURE): the environment belongs to somebody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import rig

AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can make a setuid program")


@pytest.fixture
def open_directory():
    """A directory that everybody may look into."""
    with tempfile.TemporaryDirectory(prefix="p11tpm-setuid-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def programs(hosts, open_directory):
    """The same host program twice: an ordinary one, and one that runs as root whoever starts it."""
    ordinary, setuid = open_directory / "ordinary", open_directory / "setuid"
    for program in (ordinary, setuid):
        shutil.copy(hosts.program("tokens"), program)
    setuid.chmod(0o4755)
    if os.statvfs(open_directory).f_flag & os.ST_NOSUID:
        pytest.skip("temporary files are on a nosuid file system")
    return ordinary, setuid


@pytest.fixture
def planted(user, open_directory):
    """An environment that leads to `user`'s token, and to code and files of whoever made it."""
    marks = open_directory / "marks"
    marks.mkdir(mode=0o777)
    marks.chmod(0o777)
    code = open_directory / "code"
    code.mkdir()
    for name in ("sitecustomize", "usercustomize", "p11tpm", "_p11tpm", "os", "sqlite3"):
        (code / f"{name}.py").write_text(f"open({str(marks / name)!r}, 'w')\n")
    more = {"PYTHONPATH": str(code), "PYTHONHOME": str(code), "PYTHONSTARTUP": str(code / "os.py"), "HOME": str(code),
            "TSS2_LOG": "all+trace", "TSS2_LOGFILE": str(marks / "tss2"), "TCTI": "nonsense",
            "XDG_CONFIG_HOME": str(code), "XDG_DATA_HOME": str(user.store)}  # fmt: skip
    (code / "p11tpm.conf").write_text(f"store = {user.store}\nlog = {marks / 'log'}\n")
    return {**user.env, **more}, marks


def tokens(program, module, env, prefix=()):
    done = subprocess.run([*prefix, program, module], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_the_environment_counts_in_an_ordinary_host(programs, planted, user):
    env, _ = planted
    assert "> token test" in tokens(programs[0], user.module, env)


def test_the_environment_does_not_count_in_a_setuid_host(programs, planted, user):
    env, marks = planted
    said = tokens(programs[1], user.module, env, AS_NOBODY)
    assert said[0] == "> C_Initialize 0x0"
    assert "> secure" in said
    assert "> token test" not in said
    assert not list(marks.iterdir())


def test_a_clean_environment_says_the_same(programs, planted, user):
    env, _ = planted
    clean = tokens(programs[1], user.module, rig.clean_env(), AS_NOBODY)
    assert tokens(programs[1], user.module, env, AS_NOBODY) == clean
