"""Every function with random handles, lengths, templates and mechanisms: no crash, and nonsense is never CKR_OK.

The host is a process of its own (caller.py): when it dies, the call that was under way is in the failure. Many more
calls with P11TPM_FUZZ_ROUNDS=20000.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import rig
from fuzz.effort import rounds

CALLER = Path(__file__).with_name("caller.py")
COUNT = rounds(800, 20_000)


def test_no_call_crashes_or_succeeds_by_mistake(tmp_path, module_path, host_env):
    note = tmp_path / "call"
    with rig.Swtpm(max_tries=31) as swtpm:
        environment = host_env(swtpm)
        (tmp_path / "p11tpm.conf").write_text("log = off\n")
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", CALLER, module_path, "1", str(COUNT // 8), note],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60 + COUNT,
            check=False,
        )
    last = note.read_text().rstrip() if note.exists() else "none"
    assert done.returncode == 0, f"{done.returncode} in {last}\n{done.stdout}\n{done.stderr[-4000:]}"
    made, good = map(int, done.stdout.split())
    assert made >= COUNT * 0.9
    assert good > made * 0.1, "hardly anything was sense: the test says little"
    assert good < made * 0.6
