"""C_WaitForSlotEvent: no event ever, and a wait that costs nothing and ends with the run."""

import threading
import time

from p11tpm.ck import CKF, CKR
from rig.deadline import exit_code, fork


class Waiter(threading.Thread):
    """A thread of the host that waits for a slot event."""

    def __init__(self, run):
        super().__init__(daemon=True)
        self._run = run
        self.rv = None
        self.start()
        time.sleep(0.2)

    def run(self):
        self.rv = self._run.raw.C_WaitForSlotEvent(0, self._run.ulong(), self._run.ffi.NULL)


def test_nothing_has_happened(bare):
    null = bare.ffi.NULL
    assert bare.raw.C_WaitForSlotEvent(CKF.DONT_BLOCK, bare.ulong(), null) == CKR.NO_EVENT
    assert bare.raw.C_WaitForSlotEvent(CKF.DONT_BLOCK, null, null) == CKR.ARGUMENTS_BAD
    assert bare.raw.C_WaitForSlotEvent(CKF.DONT_BLOCK, bare.ulong(), bare.ulong()) == CKR.ARGUMENTS_BAD
    bare.finalize()
    assert bare.raw.C_WaitForSlotEvent(0, bare.ulong(), null) == CKR.CRYPTOKI_NOT_INITIALIZED
    bare.initialize()


def test_waits_end_with_the_run(token):
    waiters = [Waiter(token) for _ in range(3)]
    assert all(waiter.is_alive() for waiter in waiters)
    used = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - used < 0.05
    assert [waiter.rv for waiter in waiters] == [None] * 3
    assert len(token.slots()) == 1, "another thread works on"
    began = time.monotonic()
    token.finalize()
    for waiter in waiters:
        waiter.join(5)
    assert time.monotonic() - began < 2
    assert [waiter.rv for waiter in waiters] == [CKR.CRYPTOKI_NOT_INITIALIZED] * 3
    token.initialize()
    waiter = Waiter(token)
    assert waiter.rv is None, "a wait of the next run"
    token.finalize()
    waiter.join(5)
    assert waiter.rv == CKR.CRYPTOKI_NOT_INITIALIZED
    token.initialize()


def test_a_child_is_not_disturbed_by_a_wait_of_its_parent(token):
    waiter = Waiter(token)

    def wait_in_child() -> int:
        rv = token.raw.C_WaitForSlotEvent(CKF.DONT_BLOCK, token.ulong(), token.ffi.NULL)
        token.initialize()
        mine = Waiter(token)
        waited = mine.rv is None
        token.finalize()
        mine.join(5)
        return 0 if (rv, waited, mine.rv) == (CKR.CRYPTOKI_NOT_INITIALIZED, True, CKR.CRYPTOKI_NOT_INITIALIZED) else 1

    assert exit_code(fork(wait_in_child)) == 0
    assert waiter.rv is None
    token.finalize()
    waiter.join(5)
    assert waiter.rv == CKR.CRYPTOKI_NOT_INITIALIZED
    token.initialize()
