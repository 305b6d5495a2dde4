"""Makes a unified kernel image, which firmware starts.

It is systemd's stub with kernel, initrd and command line, and the signature of the values that these give to PCR 11.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from rig.program import said
from rig.swtpm import Swtpm

if TYPE_CHECKING:
    from pathlib import Path

    from signer import Signer

AFTER_STUB = 0x20000  # its own sections end before
PAGE = 4096
PHASES = ["sysinit", "sysinit:ready"]  # what systemd-pcrphase(8) adds to PCR 11; initramfs-tools' initrd adds nothing
SECONDS = 60


def make(place: Path, cmdline: str, pcrs: Signer, directory: Path, signed: str = "") -> Path:
    """Return the image, in the directory, of what `image.sh` made in `place`.

    `pcrs` signs the values of PCR 11, or those that they would be with the command line `signed`.
    """
    texts = {"cmdline": cmdline, "pcrpkey": pcrs.public_key()}
    for name, text in {**texts, "signed": signed or cmdline}.items():
        (directory / name).write_text(text)
    sections = {
        "osrel": place / "os-release",
        **{name: directory / name for name in texts},
        "linux": place / "vmlinuz",
        "initrd": place / "initrd",
    }
    sections["pcrsig"] = _signature({**sections, "cmdline": directory / "signed"}, pcrs, directory)
    command: list[str | Path] = ["objcopy"]
    at = AFTER_STUB
    for name, path in sections.items():
        command += ["--add-section", f".{name}={path}", "--change-section-vma", f".{name}={at:#x}"]
        at += -(-path.stat().st_size // PAGE) * PAGE
    image = directory / "uki"
    said([*command, place / "linuxx64.efi.stub", image], os.environ, directory)
    return image


def _signature(sections: dict[str, Path], pcrs: Signer, directory: Path) -> Path:
    """Return a file of the signature, which systemd-measure computes by a TPM of its own."""
    path = directory / "pcrsig"
    tpm = Swtpm()
    command = [
        *("/lib/systemd/systemd-measure", "sign", "--bank=sha256", f"--tpm2-device={tpm.tcti}"),
        *(f"--{name}={section}" for name, section in sections.items()),
        *(f"--phase={phase}" for phase in PHASES),
        *(f"--private-key={pcrs.key}", f"--public-key={directory / 'pcrpkey'}"),
    ]
    try:
        path.write_bytes(subprocess.run(command, timeout=SECONDS, check=True, stdout=subprocess.PIPE).stdout)
    finally:
        tpm.stop()
    return path
