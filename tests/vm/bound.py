"""Machines one after the other, with one TPM, for a token that is bound to PCR 7 and to PCR 11's signed values."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import uki
from firmware import Secured, variables_for
from machine import Kept
from signer import Signer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class Boot:
    """One of the machines.

    `step` is what the part does in it; `ours`: the key that the token knows signed the values of PCR 11, else another
    one; `changed`: the command line is another than these are for.
    """

    def __init__(self, words: str, step: str, *, secure: bool = True, ours: bool = True, changed: bool = False) -> None:
        self.words = words
        self.step = step
        self.secure = secure
        self.ours = ours
        self.changed = changed


BOOTS = (
    Boot("a signed kernel under Secure Boot", "bind"),
    Boot("an update of the kernel", "opens"),
    Boot("one that another key has signed", "refused", ours=False),
    Boot("one with a changed command line", "refused", changed=True),
    Boot("Secure Boot is off", "recover", secure=False),
    Boot("Secure Boot is on again", "reseal"),
    Boot("Secure Boot is off, as was foreseen", "opens", secure=False),
)


class Bound(Secured):
    """One of these machines; every one has another image, by its command line."""

    def __init__(self, place: Path, variables: Path, signer: Signer, pcrs: Signer, kept: Kept, boot: Boot) -> None:
        super().__init__(place, variables, signer, kept)
        self._pcrs = pcrs
        self._boot = boot

    def _image(self, cmdline: str) -> Path:
        ours = f"{cmdline} bound.step={self._boot.step}"
        return uki.make(self._place, ours, self._pcrs, self._directory, cmdline if self._boot.changed else "")


class BoundBoots:
    """All of them."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._directory = Path(tempfile.mkdtemp(prefix="vm-"))
        self._kept = Kept()
        self.console: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._kept.__exit__(None, None, None)
        shutil.rmtree(self._directory, ignore_errors=True)

    def run(self, parts: list[str], seconds: int) -> Iterator[str]:
        """Do as `Machine.run` with one machine after the other."""
        signer, pcrs, others = (Signer(self._directory, name) for name in ("firmware", "pcrs", "others"))
        variables = {secure: variables_for(signer, self._directory, enabled=secure) for secure in (True, False)}
        for boot in BOOTS:
            yield f"boot - {boot.words}"
            by = pcrs if boot.ours else others
            with Bound(self._place, variables[boot.secure], signer, by, self._kept, boot) as machine:
                ended = False
                try:
                    for line in machine.run(parts, seconds):
                        ended = ended or line == "end - all"
                        if line != "end - all":
                            yield line
                finally:
                    self.console = machine.console
            if not ended:
                return
        yield "end - all"
