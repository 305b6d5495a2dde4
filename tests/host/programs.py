"""Host programs written in C."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).resolve().parent
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", "-Wno-unused-function"]


def pkcs11_flags() -> list[str]:
    """Return what the compiler needs to find the header of PKCS#11."""
    command = ["pkg-config", "--cflags", "p11-kit-1"]
    return shlex.split(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)


class Hosts:
    """The host programs, compiled when they are first used: `hosts(name, *arguments)` runs one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def program(self, name: str, *flags: str) -> Path:
        """Return the compiled program; `flags` are for the compiler."""
        target = self._directory / f"{Path(name).name}-{abs(hash(flags)):x}"
        if not target.exists():
            source = ["-std=gnu11", "-O1", *WARNINGS, *pkcs11_flags(), str(HERE / f"{name}.c"), "-o", str(target)]
            done = subprocess.run(
                ["gcc", *source, *flags, "-pthread", "-ldl", "-lm"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        return target

    def __call__(
        self,
        name: str | Path,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        prefix: tuple[str, ...] = (),
    ) -> list[str]:
        """Run a program and give what it says.

        Nothing may be on stdout, and on stderr nothing but what the host itself says.
        """
        program = self.program(name) if isinstance(name, str) else name
        done = subprocess.run(
            [*prefix, str(program), *map(str, arguments)],
            env=rig.clean_env(**rig.sanitizers()) if env is None else env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=180,
            check=False,
        )
        lines = done.stderr.splitlines()
        if done.returncode == 77:
            pytest.skip(done.stderr)
        assert (done.returncode, done.stdout) == (0, ""), done
        said = [line[2:] for line in lines if line.startswith("> ")]
        assert len(said) == len(lines), done.stderr
        return said
