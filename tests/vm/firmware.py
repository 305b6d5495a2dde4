"""Machines that start by UEFI firmware, which measures what it starts (TCG PC Client Platform Firmware Profile)."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

import uki
from machine import BOOT_SECONDS, KERNEL, Machine, disk
from signer import Signer

from rig.program import said

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from machine import Kept

OVMF = Path("/usr/share/OVMF")
VARIABLES = OVMF / "OVMF_VARS_4M.fd"  # without any key
OWNER = str(uuid.uuid4())  # of the keys in variables (EFI_SIGNATURE_DATA: UEFI 2.10, section 32.4.1)
ESP = 64 << 20  # bytes
NOISE = ("\x1b", "BdsDxe:", "EFI stub:")
REFUSED = "Access Denied"  # EFI_ACCESS_DENIED, as EDK II says it


class Measured(Machine):
    """A machine that its firmware starts, by a unified kernel image on a disk of its own."""

    FIRMWARE = OVMF / "OVMF_CODE_4M.fd"
    MACHINE = "q35"

    def __init__(self, place: Path, variables: Path = VARIABLES, kept: Kept | None = None) -> None:
        super().__init__(place, kept)
        self._variables = self._directory / "variables"
        shutil.copyfile(variables, self._variables)

    def run(self, parts: list[str], seconds: int) -> Iterator[str]:
        """Do as `Machine.run`; leave out what the firmware says, which is on every serial line."""
        return (line for line in super().run(parts, seconds) if not line.startswith(NOISE))

    def _start(self, kernel: str) -> list[str]:
        code = f"if=pflash,format=raw,unit=0,readonly=on,file={self.FIRMWARE}"
        variables = f"if=pflash,format=raw,unit=1,file={self._variables}"
        image = self._image(f"{kernel} root=LABEL=root")
        self._sign(image)
        return [
            *("-machine", self.MACHINE, "-drive", code, "-drive", variables),
            *disk("esp", self._esp(image), device=",bootindex=0"),
        ]

    def _image(self, cmdline: str) -> Path:
        """Make what the firmware starts."""
        return uki.make(self._place, cmdline, Signer(self._directory, "pcrs"), self._directory)

    def _sign(self, image: Path) -> None:
        """Sign what the firmware starts, where it wants that."""

    def _esp(self, image: Path) -> Path:
        """Make a disk that firmware starts from, without partitions."""
        path = self._directory / "esp"
        with path.open("wb") as file:
            file.truncate(ESP)
        for name, *rest in (
            ("mformat", "-F", "::"),
            ("mmd", "::/EFI", "::/EFI/BOOT"),
            ("mcopy", image, "::/EFI/BOOT/BOOTX64.EFI"),
        ):
            said([name, "-i", path, *rest], os.environ, self._directory)
        return path


class Secured(Measured):
    """A machine whose firmware has these variables, and starts what a signer signed."""

    FIRMWARE = OVMF / "OVMF_CODE_4M.secboot.fd"
    MACHINE = "q35,smm=on"

    def __init__(self, place: Path, variables: Path, signer: Signer, kept: Kept | None = None) -> None:
        super().__init__(place, variables, kept)
        self._signer = signer

    def refuses(self) -> bool:
        """Whether the firmware refuses to start the machine; TimeoutError if it starts it."""
        console = ["-chardev", f"stdio,id=console,signal=off,logfile={self._console}", "-serial", "chardev:console"]
        command = self._command(KERNEL, *console)
        return any(REFUSED in line for line in self._lines(command, BOOT_SECONDS))

    def _start(self, kernel: str) -> list[str]:
        return [*super()._start(kernel), "-global", "driver=cfi.pflash01,property=secure,value=on"]

    def _sign(self, image: Path) -> None:
        self._signer.sign(image)


class SecureBoots:
    """Machines with Secure Boot: with one key, with another, and switched off; and one with the other's signature."""

    FOUND = ("Secure Boot", "lockdown", "PCR 7")  # the part's figures
    ON, OFF = ["1", "integrity"], ["0", "none"]

    def __init__(self, place: Path) -> None:
        self._place = place
        self._directory = Path(tempfile.mkdtemp(prefix="vm-"))
        self.console: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def run(self, parts: list[str], seconds: int) -> Iterator[str]:
        """Do as `Machine.run` with one machine after the other; add checks of what they say when compared."""
        one, two = (Signer(self._directory, name) for name in ("one", "two"))
        seven = set()
        for signer, enabled, wanted in ((one, True, self.ON), (two, True, self.ON), (one, False, self.OFF)):
            words = f"Secure Boot by key {signer.name}, {'on' if enabled else 'off'}"
            found: dict[str, str] = {}
            yield f"boot - {words}"
            with Secured(self._place, variables_for(signer, self._directory, enabled=enabled), signer) as machine:
                yield from self._figures(machine, parts, seconds, found)
            if len(found) != len(self.FOUND):
                return
            *state, pcr = (found[name] for name in self.FOUND)
            yield _check(state == wanted, f"{words}: Secure Boot and lockdown are {', '.join(state)}")
            seven.add(pcr)
        yield _check(len(seven) == 3, "PCR 7 is another one by each key, and when it is off")
        with Secured(self._place, variables_for(two, self._directory, enabled=True), one) as machine:
            try:
                refused = machine.refuses()
            finally:
                self.console = machine.console
        yield _check(refused, "what key one signed is refused where key two is wanted")
        yield "end - all"

    def _figures(self, machine: Machine, parts: list[str], seconds: int, found: dict[str, str]) -> Iterator[str]:
        """Return the machine's lines but the last, and put its figures into `found` if it got there."""
        figures = {}
        try:
            for line in machine.run(parts, seconds):
                if line == "end - all":
                    found.update(figures)
                    return
                yield line
                kind, _, rest = line.partition(" - ")
                name, _, value = rest.partition(": ")
                if kind == "figure" and name in self.FOUND:
                    figures[name] = value
        finally:
            self.console = machine.console


def variables_for(signer: Signer, directory: Path, *, enabled: bool) -> Path:
    """Make variables of firmware that start what the signer signed; Secure Boot may be disabled in its setup."""
    path = directory / f"variables-{signer.name}-{enabled}"
    keys = [word for kind in ("--set-pk", "--add-kek", "--add-db") for word in (kind, OWNER, signer.certificate)]
    for options in (
        ["--input", VARIABLES, "--output", path, *keys, "--secure-boot"],
        ["--inplace", path, "--set-true" if enabled else "--set-false", "SecureBootEnable"],
    ):
        said([Path(sys.executable).with_name("virt-fw-vars"), *options], os.environ, directory)
    return path


def _check(passed: bool, words: str) -> str:
    return f"{'ok' if passed else 'not ok'} - {words}"
