"""Somebody with keys in a TPM, who uses tpm2-pkcs11."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rig.user import User

if TYPE_CHECKING:
    from rig.proxy import CountingProxy
    from rig.swtpm import Swtpm
    from rig.tabrmd import Tabrmd

TESTS = Path(__file__).parents[1]


class PeerUser(User):
    """The same user with the other product: what a recipe calls `p11tpm` does the same with tpm2-pkcs11's tools."""

    def _places(self, tpm: Swtpm | Tabrmd | CountingProxy) -> dict[str, str]:
        self.store.mkdir(mode=0o700)
        self.command = self.directory / "bin" / "p11tpm"
        self.command.parent.mkdir()
        paths = f"PYTHONPATH={shlex.quote(str(TESTS))}"
        self.command.write_text(f'#!/bin/sh\n{paths} exec {shlex.quote(sys.executable)} -m rig.peer_command "$@"\n')
        self.command.chmod(0o700)
        return {
            "TPM2_PKCS11_TCTI": tpm.tcti,
            "TPM2_PKCS11_STORE": str(self.store),
            "TSS2_LOG": "all+none",
            "PEER_PIN": self.pin,
        }
