"""p11-kit with settings of a test's own."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from rig.rights import require_mounts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def variable(name: str) -> str:
    """What p11-kit says of itself to programs that are built with it."""
    command = ["/usr/bin/pkg-config", f"--variable={name}", "p11-kit-1"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class P11Kit:
    """p11-kit's settings with one module, which `text` describes; commands by `command` see them, in `env`.

    p11-kit does not read root's own settings: root gets other settings of the system, in a name space of the command.
    """

    def __init__(self, env: Mapping[str, str], directory: Path, text: str) -> None:
        modules = directory / "pkcs11" / "modules"
        modules.mkdir(parents=True)
        (modules / "p11tpm.module").write_text(text)
        self.prefix: list[str] = []
        self.env = {**env, "XDG_CONFIG_HOME": str(directory)}
        if os.getuid() == 0:
            require_mounts()
            script = f'mount --bind "{modules}" "{variable("p11_module_configs")}" && exec "$@"'
            self.prefix = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh"]
            self.env = {**env}

    def command(self, *arguments: str | Path) -> list[str | Path]:
        """The command that sees these settings."""
        return [*self.prefix, *arguments]
