"""Measures p11tpm beside tpm2-pkcs11 (C) and SoftHSM (C, no TPM) on the same software TPM; fails if a budget is missed.

`make bench` runs it. Other programs on the machine disturb it: figures are ratios of rounds in which all take turns.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import chart
from budget import budgets
from core import ONE, cores
from measure import Measure
from product import P11tpm, SoftHsm, Tpm2Pkcs11
from program import BenchError, Program
from report import Report
from rich.console import Console
from yardstick import Yardstick

import rig

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 1800  # seconds; it takes five minutes on a machine that does nothing else
PLOT = Path(__file__).resolve().with_name("bench.svg")


class Bench:
    """One run, told on `console`, in a directory of its own."""

    def __init__(self, console: Console, directory: Path) -> None:
        self._console = console
        self._directory = directory

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._console.print(f"[dim]{time.monotonic() - begun:5.1f} s  {what}[/]")

    def run(self) -> bool:
        """Measure everything, print it and draw the plot; True if every budget was kept."""
        program = Program(self._directory)
        products = [kind(program, self._directory) for kind in (P11tpm, Tpm2Pkcs11, SoftHsm)]
        with cores(ONE), rig.Swtpm(max_tries=32) as tpm:
            measure = Measure(tpm, products, Yardstick(self._directory))
            self._measure(measure)
        lines = budgets(measure)
        report = Report(self._console, measure)
        report.side_by_side()
        report.commands()
        report.budgets(lines)
        chart.write(measure.samples, PLOT)
        return all(line.kept for line in lines)

    def _measure(self, measure: Measure) -> None:
        load = os.getloadavg()[0]
        if load > 0.5:
            self._console.print(f"Something else runs here (load {load:.1f}): times are longer, ratios less exact.")
        with self._step("stores of 1 to 10,000 keys"):
            measure.prepare()
        with measure.idling():
            with self._step("process start to first signature"):
                measure.starts()
            with self._step("the same on a discrete TPM, with and without a resource manager"):
                measure.models()
        for kind, count in (("p256", 20), ("p384", 10), ("rsa", 8)):
            with self._step(f"signatures: {kind}"):
                measure.signatures(kind, count)
        with self._step("calls without the TPM, random numbers"):
            measure.calls()
        with self._step("key agreement and decryption"):
            measure.core()
        with self._step("searches"):
            measure.finds()
        with self._step("threads, keys in turn"):
            measure.several()
        with self._step("10,000 signatures"):
            measure.growth()
        with self._step("TPM commands"):
            measure.count_commands()


def _end(number: int, _: object) -> None:
    """Make a signal end the bench by way of its cleaning up."""
    sys.exit(128 + number)


def main() -> int:
    """0 if every budget was kept, 1 if not, 2 if the bench itself did not work."""
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _end)
    signal.alarm(LONGEST)
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 120
    memory = "/dev/shm"  # stores in memory: a disk's flushes would be measured otherwise
    directory = Path(tempfile.mkdtemp(prefix="p11tpm-bench-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        return 0 if Bench(console, directory).run() else 1
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        console.print(f"The bench does not work: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
