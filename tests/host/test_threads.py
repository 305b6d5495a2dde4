"""Threads of a host: what one of them does, or suffers, does not hold up the others and leaves nothing in the TPM."""

from __future__ import annotations


def test_a_cancelled_thread_leaves_no_lock_behind(hosts, owner, swtpm):
    assert hosts("threads", owner.module, "cancelled", env=owner.env) == ["done"]
    assert swtpm.loaded() == []


def test_nothing_is_left_by_threads_that_sign_during_finalize(hosts, owner, swtpm):
    assert hosts("threads", owner.module, "finalized", env=owner.env) == ["done"]
    assert swtpm.loaded() == []


def test_sessions_are_closed_in_time_that_grows_with_their_number(hosts, owner):
    *said, done = hosts("threads", owner.module, "closed", env=owner.env)
    times = {word: int(ms) for word, ms in map(str.split, said)}
    assert (set(times), done) == ({"open", "all", "each"}, "done")
    assert max(times["all"], times["each"]) < 10 * max(1, times["open"]), "it was 200 times as long"


def test_logouts_while_others_sign(hosts, owner, swtpm):
    """Nobody waits for a lock of somebody who waits for theirs."""
    assert hosts("logouts", owner.module, env=owner.env) == ["signatures 1"]
    assert swtpm.loaded() == []


def test_sessions_are_closed_while_another_thread_logs_out(hosts, owner):
    """A login that has ended meanwhile does not make closing fail."""
    assert hosts("threads", owner.module, "logged_out", env=owner.env) == ["done"]


def test_initialize_while_another_thread_asks_python_for_its_version(hosts, owner):
    """Python's text of its version is empty for a moment then, and the module's is not the wrong one."""
    assert hosts("version", owner.module, env=owner.env) == ["told 100000"]
