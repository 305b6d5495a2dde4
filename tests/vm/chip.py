"""The software TPM of a virtual machine."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Chip:
    """A TPM 2.0 for qemu: `start` before each time that the machine is switched on, what it keeps is gone at the end.

    swtpm ends with the qemu that uses it, however that ends.
    """

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="vm-chip-"))  # a socket's path is short, and swtpm's absolute

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def start(self) -> list[str]:
        """Switch it on; return qemu's options for it."""
        socket = self._directory / "socket"
        command = ["swtpm", "socket", "--tpm2", "--daemon", "--terminate", "--tpmstate", f"dir={self._directory}"]
        subprocess.run([*command, "--ctrl", f"type=unixio,path={socket}"], timeout=30, check=True)
        return [
            *("-chardev", f"socket,id=chip,path={socket}"),
            *("-tpmdev", "emulator,id=tpm,chardev=chip"),
            *("-device", "tpm-crb,tpmdev=tpm"),
        ]
