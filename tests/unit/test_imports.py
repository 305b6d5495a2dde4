"""The lock of what is loaded late: a fork waits for it, and its child never does."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from p11tpm.host import imports
from rig.deadline import exit_code, fork, join

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def taken_by_a_thread(seconds: float | None) -> Iterator[None]:
    """Have another thread hold `import_lock`, for so long or until the end of the block."""
    taken, end = threading.Event(), threading.Event()

    def hold() -> None:
        with imports.import_lock:
            taken.set()
            end.wait(60 if seconds is None else seconds)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert taken.wait(60)
    try:
        yield
    finally:
        end.set()
        join(thread)


def load() -> int:
    return 0 if imports.import_lock.acquire(timeout=20) else 1


def let_go(held: int) -> None:
    for _ in range(held):
        imports.import_lock.release()
    with pytest.raises(RuntimeError):
        imports.import_lock.release()


def test_a_child_can_load_what_a_thread_of_its_parent_was_loading():
    with taken_by_a_thread(0.1):
        assert exit_code(fork(load)) == 0


def test_a_child_can_load_although_the_thread_was_not_waited_for(monkeypatch):
    monkeypatch.setattr(imports, "SECONDS", 0.05)
    with taken_by_a_thread(None):
        assert exit_code(fork(load)) == 0
    assert imports.import_lock.acquire(timeout=0)
    imports.import_lock.release()


@pytest.mark.parametrize("held", [0, 1, 2])
def test_the_thread_that_forks_keeps_what_it_holds(held):
    for _ in range(held):
        assert imports.import_lock.acquire(timeout=20)
    assert exit_code(fork(lambda: let_go(held))) == 0
    let_go(held)


def test_a_late_module_is_loaded_at_its_first_use_and_with_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = "from p11tpm.host.imports import import_lock\nheld = import_lock._is_owned()\ndef answer(): return 42\n"
    (tmp_path / "loaded_late.py").write_text(source)
    late = imports.Late("loaded_late")
    assert "loaded_late" not in sys.modules
    assert (late.held, late.answer()) == (True, 42)
    del sys.modules["loaded_late"]
    assert late.answer() == 42, "it is loaded once"
    with pytest.raises(ImportError):
        _ = imports.Late("loaded_never").answer
