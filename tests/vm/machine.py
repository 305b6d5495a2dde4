"""A virtual machine under software emulation: no KVM is needed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

from chip import Chip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

HERE = Path(__file__).parent
MEMORY = 1024  # MiB
UNCHANGED = ",snapshot=on"  # what the machine writes to a disk is gone with it
SCRATCH = 64 << 20  # bytes of a disk
BOOT_SECONDS = 300  # until the first part begins, for a start in between, and from the last part until it is off
KILL_SECONDS = 10  # inside/run: until a part that is late is gone
TAIL = 40  # lines of the console that are shown when a machine does not do what it should
KERNEL = "rw console=ttyS0 loglevel=4 panic=-1 no_timer_check systemd.show_status=no"  # a busy emulator's timer is late


class Kept:
    """What machines that are started one after the other have in common: a TPM, and a disk that is empty at first."""

    def __init__(self) -> None:
        self.chip = Chip()
        self._directory = Path(tempfile.mkdtemp(prefix="vm-"))
        self.disk = self._directory / "scratch"
        with self.disk.open("wb") as file:
            file.truncate(SCRATCH)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.chip.__exit__(None, None, None)
        shutil.rmtree(self._directory, ignore_errors=True)


class Machine:
    """A machine with a disk that is as new each time, the parts on another, and with what is kept, if anything is.

    It is what `image.sh` made in `place`.
    """

    def __init__(self, place: Path, kept: Kept | None = None) -> None:
        self._place = place
        self._directory = Path(tempfile.mkdtemp(prefix="vm-"))
        self._kept = kept or Kept()
        self._keeps = kept is not None
        self._console = self._directory / "console"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        if not self._keeps:
            self._kept.__exit__(None, None, None)
        shutil.rmtree(self._directory, ignore_errors=True)

    def run(self, parts: list[str], seconds: int) -> Iterator[str]:
        """Have the machine run parts, each within so many seconds, and switch itself off; give what they say by lines.

        TimeoutError if it does not; the machine is gone then.
        """
        serial = [
            "-serial",
            f"file:{self._console}",
            "-chardev",
            "stdio,id=result,signal=off",
            "-serial",
            "chardev:result",
        ]
        command = self._command(f"{KERNEL} inside.parts={','.join(parts)} inside.limit={seconds}", *serial)
        yield from self._lines(command, BOOT_SECONDS + (seconds + KILL_SECONDS) * len(parts))

    def shell(self) -> None:
        """Have somebody use the machine at this terminal; Ctrl-a x ends it."""
        command = self._command(KERNEL, "-serial", "mon:stdio", "-serial", "null")
        subprocess.run(command, timeout=None, check=False)  # it lasts for as long as somebody wants

    @property
    def console(self) -> list[str]:
        """The last lines of the console."""
        return self._console.read_text(errors="replace").splitlines()[-TAIL:] if self._console.exists() else []

    def _lines(self, command: list[str], seconds: float) -> Iterator[str]:
        """Return the lines that a machine says until it is off; TimeoutError, and it is gone, after so many seconds."""
        late = threading.Event()

        def end() -> None:
            late.set()
            popen.kill()

        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as popen:
            timer = threading.Timer(seconds, end)
            timer.daemon = True
            timer.start()
            try:
                for line in popen.stdout or ():
                    yield line.decode(errors="replace").rstrip()
            finally:
                timer.cancel()
                popen.kill()
        if late.is_set():
            raise TimeoutError

    def _start(self, kernel: str) -> list[str]:
        """Return qemu's options for what is started, by this command line of the kernel, and how."""
        return ["-machine", "q35", "-kernel", str(self._place / "vmlinuz"), "-append", f"{kernel} root=/dev/nvme0n1"]

    def _command(self, kernel: str, *serial: str) -> list[str]:
        return [
            *("nice", "qemu-system-x86_64", "-accel", "tcg,tb-size=512", "-cpu", "max"),
            *("-smp", "1", "-m", str(MEMORY), "-nodefaults", "-display", "none"),
            *("-global", "ICH9-LPC.disable_s3=0"),
            *disk("root", self._place / "image", UNCHANGED),
            *disk("scratch", self._kept.disk),
            *disk("inside", self._inside()),
            *self._start(kernel),
            *self._kept.chip.start(),
            *serial,
        ]

    def _inside(self) -> Path:
        """Make a disk of the parts, and of what they share."""
        path, tree = self._directory / "inside", self._directory / "tree"
        for name in ("inside", "parts"):
            shutil.copytree(HERE / name, tree / name)
        options = ["-q", "-t", "ext4", "-O", "^has_journal", "-L", "inside", "-d", str(tree)]
        subprocess.run(["mke2fs", *options, str(path), "8M"], timeout=60, check=True, capture_output=True)
        return path


def disk(name: str, path: Path, drive: str = "", device: str = "") -> list[str]:
    """Give qemu a disk, with more options for either half of it."""
    half = f"file={path},if=none,id={name},format=raw{drive}"
    return ["-drive", half, "-device", f"nvme,drive={name},serial={name}{device}"]
