"""`make clients`: what every client did with p11tpm and with tpm2-pkcs11, as a table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

OURS, PEER = "p11tpm", "tpm2-pkcs11"
WORDS = {"passed": "good", "xpassed": "good", "skipped": "not run", "failed": "**fails**", "xfailed": "fails"}


class Report:
    """Results of checks, by client and product; written to `file` as Markdown when the run ends."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[tuple[str, str], dict[str, tuple[str, float]]] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None]:
        outcome = yield
        report = outcome.get_result()
        if "clients" not in item.path.parts or not isinstance(item, pytest.Function):
            return
        variant = (
            re.sub(rf"(^|-)({OURS}|{PEER})(?=-|$)", "", item.callspec.id).strip("-")
            if hasattr(item, "callspec")
            else ""
        )
        product = PEER if is_peer(item) else OURS
        check = item.originalname.removeprefix("test_").replace("_", " ")
        row = self._rows.setdefault(
            (item.path.stem.removeprefix("test_"), f"{check} ({variant})" if variant else check), {}
        )
        state, seconds = row.get(product, ("passed", 0.0))
        if report.outcome != "passed":
            state = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        row[product] = (state, seconds + call.duration)

    def pytest_sessionfinish(self) -> None:
        lines = [f"| client | check | {OURS} | s | {PEER} | s |", "|---|---|---|---|---|---|"]
        for (client, check), row in self._rows.items():
            cells = [cell for product in (OURS, PEER) for cell in self._cells(row.get(product))]
            lines.append(f"| {' | '.join([client, check, *cells])} |")
        self._file.write_text("\n".join([*lines, ""]))

    def _cells(self, result: tuple[str, float] | None) -> tuple[str, str]:
        return (WORDS[result[0]], f"{result[1]:.1f}") if result else ("", "")


def is_peer(item: pytest.Item) -> bool:
    """Whether a test drives tpm2-pkcs11."""
    return (
        isinstance(item, pytest.Function) and hasattr(item, "callspec") and item.callspec.params.get("product") == PEER
    )
