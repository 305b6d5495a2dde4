"""fork: a child begins anew, and hangs never."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("somebody", ["user", "owner"], ids=["tabrmd", "swtpm"])
def test_fork_while_eight_threads_sign(hosts, request, somebody):
    owner = request.getfixturevalue(somebody)
    assert hosts("forks", owner.module, "20", env=owner.env) == ["good 20 failures 0"]


def test_a_broker_leaves_one_socket_and_no_thread(hosts, user):
    """What a process has of the TPM is its own, and its children's is theirs."""
    assert hosts("broker", user.module, env=user.env) == [
        "at first: sockets 0 threads 1",
        "cold child: good",
        "signed: sockets 1 threads 2",  # the idle timer
        "warm child: good",
        "its parent: sockets 1 threads 2",
        "at last: sockets 0 threads 1",
    ]


@pytest.mark.parametrize("attempt", range(5))
def test_fork_during_the_first_initialize(hosts, user, attempt):  # noqa: ARG001
    assert hosts("first", user.module, env=user.env) == ["started 1 told 7 other 0 good 10"]


def test_threads_and_signals_as_in_a_go_program(hosts, user):
    assert hosts("storm", user.module, env=user.env) == ["calls 10000 failures 0 interrupted often"]
