"""p11-kit with settings of a test's own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rig.deadline import lock
from rig.rights import require_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rig.user import User

SECONDS = 240  # for which the tests of another process may have the system's settings


def variable(name: str) -> str:
    """What p11-kit says of itself to programs that are built with it."""
    command = ["/usr/bin/pkg-config", f"--variable={name}", "p11-kit-1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@contextlib.contextmanager
def system_settings(*, change: bool = False) -> Iterator[None]:
    """Keep other tests from changing p11-kit's settings of the system; with `change`, also from reading them."""
    how = fcntl.LOCK_EX if change else fcntl.LOCK_SH
    with (Path(tempfile.gettempdir()) / f"p11tpm-tests-p11-kit-{os.getuid()}.lock").open("w") as turn:
        lock(turn, how, "p11-kit's settings of the system", SECONDS)
        yield


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


def installed(user: User, programs: Mapping[str, Sequence[str | Path]]) -> P11Kit:
    """Make `programs` find the module as after an installation, when `user` starts them by name.

    Each name is that of a command, with the options that it always gets.
    """
    kit = P11Kit({}, user.directory, f"module: {user.module}\n")
    shadows = user.directory / "programs"
    shadows.mkdir()
    for name, program in programs.items():
        command = shlex.join(map(str, kit.command(*program)))
        (shadows / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (shadows / name).chmod(0o700)
    user.env |= {**kit.env, "PATH": f"{shadows}:{user.env['PATH']}"}
    return kit
