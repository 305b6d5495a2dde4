"""Other PKCS#11 modules, each with a token of its own, for comparison."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from rig.process import clean_env

if TYPE_CHECKING:
    from rig.swtpm import Swtpm
    from rig.tabrmd import Tabrmd

LIBRARIES = Path("/usr/lib")


class Peer:
    """A module and its first token, reached by `module` and `env`; pkcs11-tool finds the PINs in `env`, too."""

    pin = "123456"
    so_pin = "so-secret"

    def __init__(self, pattern: str, env: dict[str, str]) -> None:
        self.module = str(next(LIBRARIES.glob(pattern)))
        self.env = {**env, "PIN": self.pin, "SO_PIN": self.so_pin}
        self.tool("--init-token", "--slot-index", "0", "--label", "peer", "--so-pin", "env:SO_PIN")
        self.tool("--init-pin", "--login", "--login-type", "so", "--so-pin", "env:SO_PIN", "--pin", "env:PIN")

    def tool(self, *arguments: str) -> str:
        """What pkcs11-tool prints; ChildProcessError with its complaint if it fails."""
        command = ["/usr/bin/pkcs11-tool", "--module", self.module, *arguments]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise ChildProcessError(f"{arguments[0]}: {done.stderr}")
        return done.stdout

    def generate(self, algorithm: str, number: str, label: str) -> None:
        """A key pair; `algorithm` as pkcs11-tool names it ("rsa:2048"), `number` in hexadecimal."""
        kind = ("--key-type", algorithm, "--id", number, "--label", label)
        self.tool("--login", "--pin", "env:PIN", "--keypairgen", *kind)


class SoftHsm(Peer):
    """SoftHSM, a token in software, with its files below `directory`."""

    def __init__(self, directory: Path) -> None:
        tokens = directory / "tokens"
        tokens.mkdir(mode=0o700)
        config = directory / "softhsm2.conf"
        config.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        super().__init__("softhsm/libsofthsm2.so", clean_env(SOFTHSM2_CONF=str(config)))


class Tpm2Pkcs11(Peer):
    """tpm2-pkcs11, a token in `tpm`, with its database below `directory`."""

    def __init__(self, tpm: Swtpm | Tabrmd, directory: Path) -> None:
        store = directory / "tpm2_pkcs11"
        store.mkdir(mode=0o700)
        places = {"TPM2_PKCS11_TCTI": tpm.tcti, "TPM2_PKCS11_STORE": str(store), "TSS2_LOG": "all+none"}
        super().__init__("*/libtpm2_pkcs11.so*", clean_env(**places, **tpm.env))
