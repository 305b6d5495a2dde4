"""Hosts that are killed in the middle of what they write: there is the old state or the new one, and never neither.

300 kills at points that a seed chooses, of all before each change of a file and around each command to the TPM, and one
of each operation at any time: see killed.py. All points with P11TPM_FUZZ_ROUNDS=all, others with P11TPM_FUZZ_SEED.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import rig
from fuzz.effort import ALL, rounds

HERE = Path(__file__).parent
KILLS = rounds(300, ALL)
SEED = os.environ.get("P11TPM_FUZZ_SEED", "1")
SECONDS = 800 if KILLS < ALL else 7200


@pytest.mark.timeout(SECONDS + 60)
def test_a_killed_host_leaves_the_old_state_or_the_new_one(tmp_path, module_path, host_env):
    fault = tmp_path / "fault.so"
    command = ["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", fault, HERE.parent / "unit/fault.c", "-ldl"]
    subprocess.run(command, timeout=60, check=True)
    with rig.Swtpm(max_tries=31) as swtpm:
        environment = {**host_env(swtpm), "LD_PRELOAD": str(fault)}
        (tmp_path / "p11tpm.conf").write_text("log = off\n")
        arguments = [module_path, str(swtpm.port), tmp_path, str(KILLS), SEED]
        done = subprocess.run(
            [sys.executable, HERE / "killed.py", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found = [line.split("|", 2) for line in done.stdout.splitlines()]
    assert [line for line in found if line[2] not in {"old", "new"}] == []
    assert len(found) >= min(KILLS, 300)
    kinds = Counter(kind for _, _, kind in found)
    assert min(kinds["old"], kinds["new"]) > 10, f"hardly anything was interrupted: {kinds}"
