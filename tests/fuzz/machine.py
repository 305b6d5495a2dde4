"""What the state machines of secrecy have in common: a host with a session, which knows what the standard lets it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from cryptoki import USER, Rv
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, run_state_machine_as_test

from api.conftest import PIN
from fuzz.effort import rounds
from p11tpm.attribute import FALSE, TRUE
from p11tpm.ck import CKA, CKR

if TYPE_CHECKING:
    from collections import Counter

STEPS = rounds(4_000, 200_000)
LENGTH = 50  # steps in one sequence
ENOUGH = 1_000  # steps in which everything should happen
RUNS = 5
OURS_TO_MEND = {CKR.GENERAL_ERROR, CKR.DEVICE_ERROR, CKR.HOST_MEMORY, CKR.FUNCTION_NOT_SUPPORTED, CKR.FUNCTION_FAILED}
BOOLS = st.sampled_from([TRUE, FALSE])


class Host(RuleBasedStateMachine):
    """A host: `done` counts what it tried, and what of it was refused."""

    done: ClassVar[Counter[str]]

    def __init__(self, desk) -> None:
        super().__init__()
        self._run = desk.run
        self._slot = desk.slot
        self._session = 0

    @initialize()
    def open(self) -> None:
        self._session = self._run.open(self._slot)

    def teardown(self) -> None:
        if self._session:
            for handle in self._run.find(self._session, {CKA.TOKEN: TRUE, CKA.DESTROYABLE: TRUE}):
                self._run.C_DestroyObject(self._session, handle)
            self._run.close(self._session)

    def _try(self, what: str, call, *args):
        """Call; None if the token refused, for a reason that a host may hear."""
        try:
            result = call(self._session, *args)
        except Rv as refusal:
            if refusal.rv in OURS_TO_MEND:
                raise
            self.done[f"{what} refused"] += 1
            return None
        self.done[what] += 1
        return result

    def _flag(self, handle: int, type_: int) -> bool:
        return self._run.get(self._session, handle, type_) == TRUE

    def _value(self, handle: int) -> bytes | None:
        try:
            return self._run.get(self._session, handle, CKA.VALUE)
        except Rv as refusal:
            if refusal.rv != CKR.ATTRIBUTE_SENSITIVE:
                raise
            return None

    def _copy(self, session: int, key: int, template: dict[int, bytes]) -> int:
        handle = self._run.ulong()
        self._run.C_CopyObject(session, key, *self._run.template(template), handle)
        return handle[0]


def explore(machine: type[Host], desk, good: tuple[str, ...], refused: tuple[str, ...]) -> None:
    """Run a machine; `good` and `refused` are what must have happened, or the run says little.

    A run by chance may leave one of them out: then there are some more.
    """
    machine.done.clear()
    desk.run.login(desk.session, USER, PIN)
    wanted = {*good, *(f"{kind} refused" for kind in refused)}
    for _ in range(RUNS):
        run_state_machine_as_test(
            lambda: machine(desk),
            settings=settings(
                max_examples=max(1, STEPS // LENGTH),
                stateful_step_count=LENGTH,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        if STEPS < ENOUGH or all(machine.done[kind] for kind in wanted):
            return
    pytest.fail(f"not all of {sorted(wanted)} happened in {RUNS} runs: {machine.done}")
