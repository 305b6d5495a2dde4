"""fork: a child begins anew, and hangs never."""

from __future__ import annotations

import pytest


def test_fork_while_eight_threads_sign(hosts, forker):
    assert hosts("forks", forker.module, "20", env=forker.env) == ["good 20 failures 0"]


@pytest.mark.parametrize("attempt", range(5))
def test_fork_during_the_first_initialize(hosts, user, attempt):  # noqa: ARG001
    assert hosts("first", user.module, env=user.env) == ["started 1 told 7 other 0 good 10"]


def test_threads_and_signals_as_in_a_go_program(hosts, user):
    assert hosts("storm", user.module, env=user.env) == ["calls 10000 failures 0 interrupted often"]
