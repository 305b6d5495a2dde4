"""Wrong PINs of many programs at once: the TPM sees as many as README promises (pin-tries), and is not locked."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rig


def test_sixteen_programs_at_once(newcomer: rig.User, tabrmd: rig.Tabrmd) -> None:
    newcomer.init()
    wrong = {**newcomer.env, "PIN": "654321"}
    command = ["/usr/bin/pkcs11-tool", "--module", newcomer.module, "--login", "--pin", "env:PIN", "--list-objects"]
    running = [
        subprocess.Popen(command, env=wrong, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(16)
    ]
    told = [one.communicate(timeout=60)[1] for one in running]
    assert all(one.returncode for one in running)
    assert tabrmd.swtpm.lockout_counter() == 5
    assert sum(b"CKR_PIN_INCORRECT" in words for words in told) == 5
    assert sum(b"CKR_PIN_LOCKED" in words for words in told) == 11
