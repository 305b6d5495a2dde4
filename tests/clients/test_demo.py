"""`make demo`, what a newcomer sees first."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import rig
from rig.deadline import killed_after

DEMO = Path(__file__).resolve().parents[1] / "demo.py"


def start(directory: Path) -> subprocess.Popen[str]:
    env = rig.clean_env(TMPDIR=str(directory), PYTHONUNBUFFERED="1")
    return subprocess.Popen([sys.executable, DEMO], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def left_behind(directory: Path) -> list[str]:
    """Files, and command lines of processes that have to do with `directory`."""
    found = [str(path) for path in directory.iterdir()]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended while we looked
            continue
        if str(directory) in line:
            found.append(line)
    return found


def test_demo(tmp_path: Path) -> None:
    began = time.monotonic()
    demo = start(tmp_path)
    output, errors = demo.communicate(timeout=60)
    assert (demo.returncode, errors) == (0, ""), output
    assert output.count("Log in") == 4
    assert "failed" not in output
    assert time.monotonic() - began < 30
    assert left_behind(tmp_path) == []


def test_ended_halfway(tmp_path: Path) -> None:
    """Somebody loses patience: all that was started ends too."""
    demo = start(tmp_path)
    assert demo.stdout
    with killed_after(demo.pid):
        assert any("SSH server" in line for line in demo.stdout)
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=30)
    assert demo.returncode == 128 + signal.SIGTERM
    assert left_behind(tmp_path) == []
