"""`make clients`: what every client did with p11tpm and with tpm2-pkcs11, as a table."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """# What programs did

`make clients` wrote this: real programs of Debian 12, each with p11tpm and with tpm2-pkcs11, on software TPMs in one
run. tests/clients says what each check is. Seconds are with the making of keys, while other checks ran beside. Where
there is nothing, the check is about what only p11tpm has, or was not written for both.

{counts}
"""
OURS, PEER = "p11tpm", "tpm2-pkcs11"
WORDS = {"passed": "good", "xpassed": "good", "skipped": "not run", "failed": "**fails**", "xfailed": "fails"}
NAME = re.compile(r"(?P<file>.*)::test_(?P<check>\w+)(?:\[(?P<variant>.*)\])?")
PRODUCT = re.compile(rf"(?:^|-)({OURS}|{PEER})(?=-|$)")


class Report:
    """Results of checks, by client and product; written to `file` as Markdown when the run ends."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[tuple[str, str], dict[str, tuple[str, float]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the set-up, the call and the end of a test, each with its time in seconds."""
        found = NAME.fullmatch(report.nodeid)
        if not found or "clients" not in PurePath(found["file"]).parts:
            return
        product = PRODUCT.search(found["variant"] or "")
        variant = PRODUCT.sub("", found["variant"] or "").strip("-")
        check = found["check"].replace("_", " ") + (f" ({variant})" if variant else "")
        row = self._rows.setdefault((PurePath(found["file"]).stem.removeprefix("test_"), check), {})
        state, seconds = row.get(product[1] if product else OURS, ("passed", 0.0))
        if report.outcome != "passed":
            state = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        row[product[1] if product else OURS] = (state, seconds + report.duration)

    def pytest_sessionfinish(self) -> None:
        """Write the table."""
        lines = [f"| client | check | {OURS} | s | {PEER} | s |", "|---|---|---|---|---|---|"]
        for (client, check), row in sorted(self._rows.items()):
            cells = [cell for product in (OURS, PEER) for cell in self._cells(row.get(product))]
            lines.append(f"| {' | '.join([client, check, *cells])} |")
        counts = "; ".join(f"{product}: {self._count(product)}" for product in (OURS, PEER))
        self._file.write_text("\n".join([HEAD.format(counts=counts), *lines, ""]))

    def _count(self, product: str) -> str:
        states = Counter(WORDS[row[product][0]] for row in self._rows.values() if product in row)
        return ", ".join(f"{count} {state}" for state, count in states.most_common())

    def _cells(self, result: tuple[str, float] | None) -> tuple[str, str]:
        return (WORDS[result[0]], f"{result[1]:.1f}") if result else ("", "")


def is_peer(item: pytest.Item) -> bool:
    """Whether a test drives tpm2-pkcs11."""
    return (
        isinstance(item, pytest.Function) and hasattr(item, "callspec") and item.callspec.params.get("product") == PEER
    )
