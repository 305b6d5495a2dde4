"""The tables of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measure import CALLS, LIMIT, OURS, PEER, PYTHON, SIZES, THREADS, TURNS
from rich.table import Table

if TYPE_CHECKING:
    from budget import Budget
    from measure import Measure
    from rich.console import Console

KINDS = {"p256": "ECDSA P-256", "p384": "ECDSA P-384", "rsa": "RSA-2048"}


class Report:
    """Prints what `measure` found."""

    def __init__(self, console: Console, measure: Measure) -> None:
        self._console = console
        self._measure = measure
        self._columns = [*(product.name for product in measure.products), LIMIT, PYTHON]

    def side_by_side(self) -> None:
        """Our figures and those of the others."""
        table = Table("", *self._columns, "p11tpm / peer", title="Side by side")
        for column in table.columns[1:]:
            column.justify = "right"
        for title, figure, divisor, unit in self._rows():
            table.add_row(f"{title}, {unit}", *self._cells(figure, divisor))
        self._console.print(table)
        for line in sorted(self._measure.failed):
            self._console.print(f"Signatures failed: {line}")

    def _rows(self) -> list[tuple[str, str, float, str]]:
        """(title, figure, divisor, unit)"""
        rows = [(title, f"start 1 {step}", 1000, "ms") for step, title in STEP_TITLES.items()]
        for kind, title in KINDS.items():
            rows += [
                (f"{which} {title} signature", f"{which} {kind}", 1000, "ms")
                for which in ("first", "next")[kind == "p256" :]
            ]
        rows += [
            ("ECDH P-256, Tpm.ecdh", "core ecdh", 1000, "ms"),
            ("RSA-2048 decryption, Tpm.rsa", "core decrypt", 1000, "ms"),
        ]
        rows += [("C_Initialize, processor time", "start 1 work", 1000, "ms")]
        rows += [("a bare Python, processor time", "bare start", 1000, "ms"), ("empty call", "empty call", 1, "us")]
        rows += [("32 random bytes", "random", 1, "us"), *((call, call, 1, "us") for call in CALLS)]
        for by in ("id", "label"):
            rows += [(f"find by {by}, {_keys(size)}", f"find {by} {size}", 1, "us") for size in SIZES]
        rows += [(f"start to first signature, {_keys(size)}", f"start {size} total", 1000, "ms") for size in SIZES]
        rows += [("the same, discrete TPM, 1 key", "start discrete total", 1000, "ms")]
        rows += [("the same, behind tpmrm0, 1 key", "start tpmrm0 total", 1000, "ms")]
        several = {f"threads {count}": f"{count} thread{'s'[: count > 1]}, a key each" for count in THREADS}
        several |= {f"turn {count}": f"{count} keys in turn" for count in TURNS}
        for figure, title in several.items():
            rows += [(f"{title}: a good signature every", f"{figure} time", 1000, "ms")]
            rows += [(f"{title}: failures", f"{figure} errors", 0.01, "%")]
        rows += [(f"memory, {_keys(size)}", f"start {size} memory", 1024, "MiB") for size in SIZES]
        rows += [("memory of a bare Python", "bare memory", 1024, "MiB")]
        rows += [("memory that 10,000 signatures add", "growth", 1, "KiB")]
        return [*rows, ("idle for 10 s, what stays in the TPM", "idle", 1, "handles")]

    def _cells(self, figure: str, divisor: float) -> list[str]:
        samples = self._measure.samples
        cells = [
            f"{samples.low(figure, column) / divisor:.3g}" if samples.has(figure, column) else "-"
            for column in self._columns
        ]
        comparable = all(samples.has(figure, name) for name in (OURS, PEER)) and samples.low(figure, PEER) > 0
        return [*cells, f"{samples.ratio(figure, OURS, PEER):.2f}" if comparable else "-"]

    def commands(self) -> None:
        """TPM commands of each step."""
        table = Table("step", OURS, PEER, title="TPM commands")
        commands = self._measure.commands
        for step in dict.fromkeys(step for step, _ in commands):
            table.add_row(step, *(_told(commands[step, product]) for product in (OURS, PEER)))
        self._console.print(table)

    def budgets(self, lines: list[Budget]) -> None:
        """Each budget line and what became of it."""
        table = Table("budget", "measured", "budget", "moonshot", "", title="Budgets")
        for line in lines:
            marks = [_mark(line, mark) for mark in (line.budget, line.moonshot)]
            table.add_row(line.figure, f"{line.value:.3g} {line.unit}", *marks, _verdict(line))
        self._console.print(table)


STEP_TITLES = {
    "load": "dlopen",
    "initialize": "C_Initialize",
    "slots": "C_GetSlotList",
    "session": "C_OpenSession",
    "login": "C_Login",
    "find": "first find",
    "sign": "first ECDSA P-256 signature",
    "close": "C_Finalize",
}


def _keys(count: int) -> str:
    return f"{count:,} key{'s'[: count > 1]}"


def _told(names: list[str]) -> str:
    return f"{len(names)}: {' '.join(names)}" if 0 < len(names) < 5 else str(len(names))


def _mark(line: Budget, mark: float | None) -> str:
    return "" if mark is None else f"{'>=' if line.at_least else '<='} {mark:g}"


def _verdict(line: Budget) -> str:
    if not line.kept:
        return "[bold red]missed[/]"
    if line.moonshot is not None and line.reached(line.moonshot):
        return "[bold green]moonshot[/]"
    return "[green]ok[/]" if line.budget is not None else "no budget"
