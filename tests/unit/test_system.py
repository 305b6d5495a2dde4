"""Beside os itself, which costs too much at start-up."""

# ruff: noqa: PTH112, PTH120 - os.path is what it is compared with

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p11tpm.host import system

paths = st.text("a./é", max_size=12).map(lambda text: f"/{text.lstrip('/')}")


@given(path=paths)
def test_paths(path):
    assert system.normpath(path) == os.path.normpath(path)
    normal = os.path.normpath(path)
    assert system.dirname(normal) == os.path.dirname(normal)


@pytest.mark.parametrize("path", ["a", "a/b", "/", "/a", "/a/b", "/a//b"])
def test_directories(path):
    assert system.dirname(path) == os.path.dirname(path)


def test_what_is_there(tmp_path):
    file, link, nothing = (tmp_path / name for name in ("file", "link", "nothing"))
    file.touch()
    link.symlink_to(nothing)
    for path in map(str, (tmp_path, file, link, nothing, tmp_path / "file" / "below", "nul\0")):
        assert system.exists(path) == os.path.lexists(path)
        assert system.is_directory(path) == os.path.isdir(path)


def test_the_environment(monkeypatch):
    monkeypatch.setenv("P11TPM_TEST", "changed while Python runs")
    assert system.environment()["P11TPM_TEST"] == "changed while Python runs"
    code = "import sys; from p11tpm.host import system; e = system.environment(); assert 'os' not in sys.modules; "
    code += "import os; assert dict(os.environ) == dict(e), (os.environ, e)"
    done = [sys.executable, "-I", "-S", "-X", "utf8", "-c", f"import sys; sys.path.insert(0, sys.argv[1]); {code}"]
    env = {b"NAME": b"value", b"ODD": b"\xff\xc3\xa9"}
    subprocess.run([*done, Path(system.__file__).parents[2]], env=env, timeout=60, check=True)
