"""Nothing in the tests waits for ever: each wait that could has a deadline, and no sleep stands for a condition."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = {str(path.relative_to(TESTS)): path for path in sorted(TESTS.rglob("*.py"))}

RUN = {f"subprocess.{name}" for name in ("call", "check_call", "check_output", "run")}
WAITS = {"acquire", "communicate", "join", "result", "wait"}  # methods; without an argument, they wait for ever
ENDLESS = {"os.fork", "os.wait", "os.waitpid", "signal.pause"}  # rig.deadline has what ends

# Programs of their own, to which whoever starts them gives a deadline; and what makes a deadline.
ENDED_BY_OTHERS = {"host/guest.py", "rig/deadline.py", "unit/faulty.py"}

# Where time itself is the matter: a pace, a moment to kill at, how long something lasts.
SLEEPERS = {
    *("api/test_slot_event.py", "bench/latency.py", "bench/measure.py", "clients/test_openssh.py", "fuzz/killed.py"),
    *("clients/test_parallel.py", "clients/test_parallel_keys.py", "host/guest.py", "rig/process.py"),
    *("unit/test_database.py", "unit/test_tpm_broker.py", "unit/test_tpm_idle.py", "unit/test_trylock.py"),
}


def endless(tree: ast.AST) -> list[str]:
    """What waits without a deadline, with the numbers of the lines."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name, given = ast.unparse(call.func), {one.arg for one in call.keywords}
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        forgotten = (
            (name in RUN and "timeout" not in given)
            or (method in WAITS and not call.args and not given)
            or (method == "communicate" and "timeout" not in given)
            or name in ENDLESS
            or (name == "threading.Thread" and "daemon" not in given)
        )
        if forgotten:
            found.append(f"{call.lineno}: {name}")
    return found


def sleeps(tree: ast.AST) -> bool:
    return any(isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep" for node in ast.walk(tree))


@pytest.mark.parametrize("name", sorted(FILES.keys() - ENDED_BY_OTHERS))
def test_every_wait_has_a_deadline(name: str) -> None:
    assert endless(ast.parse(FILES[name].read_text())) == []


def test_no_sleep_stands_for_a_condition() -> None:
    assert {name for name, path in FILES.items() if sleeps(ast.parse(path.read_text()))} == SLEEPERS


def test_the_check_sees_what_it_looks_for() -> None:
    code = """
subprocess.run(["true"])
subprocess.run(["true"], timeout=1)
process.wait()
process.wait(1)
process.communicate("typed")
process.communicate("typed", timeout=1)
os.waitpid(child, 0)
", ".join(words)
threading.Thread(target=work)
threading.Thread(target=work, daemon=True).join(5)
"""
    lines = [found.partition(":")[0] for found in endless(ast.parse(code))]
    assert lines == ["2", "4", "6", "8", "10"]
    assert sleeps(ast.parse("while not ready():\n    time.sleep(1)"))
