"""Threads take turns with a TPM: many commands in a row let others in between."""

from __future__ import annotations

import threading

import pytest

from p11tpm.tpm import symmetric, template
from p11tpm.tpm.turns import Turns
from rig.deadline import join
from rig.process import wait_until
from unit.tpm_ground import Ground

PARTS = 64


@pytest.fixture
def ground(proxy):
    with Ground(proxy) as ground:
        yield ground


def test_a_signature_does_not_wait_for_a_long_encryption(ground):
    long, short = ground.key(template.aes(128, made=True)), ground.key(template.ec("p256"))
    ground.start_again()

    def encrypt() -> None:
        for _ in range(PARTS):
            symmetric.crypt(ground.tpm, ground.srk, long, "cbc", bytes(16), bytes(symmetric.MOST), encrypt=True)

    thread = threading.Thread(target=encrypt, daemon=True)
    thread.start()
    for number in range(3):
        wait_until(lambda number=number: ground.proxy.names.count("EncryptDecrypt2") > 3 * number, "some parts")
        before = len(ground.proxy.names)
        ground.sign(short)
        meanwhile = ground.proxy.names[before:]
        assert meanwhile[: meanwhile.index("Sign")].count("EncryptDecrypt2") <= 2
    join(thread)
    assert ground.proxy.names.count("EncryptDecrypt2") == PARTS


def test_a_thread_may_take_its_own_turn_again():
    turns = Turns()
    with turns, turns:
        assert turns.acquire(timeout=0)
        turns.release()
        assert not taken_by_another(turns), "it has not let go of all"
    assert taken_by_another(turns)


def test_who_waited_in_vain_holds_nobody_up():
    turns = Turns()
    with turns:
        assert not taken_by_another(turns)
        assert not taken_by_another(turns)
    assert taken_by_another(turns)


def taken_by_another(turns: Turns) -> bool:
    """Have another thread take a turn for a moment; False if there was none for it."""
    taken = []

    def take() -> None:
        taken.append(turns.acquire(timeout=0.1))
        if taken[0]:
            turns.release()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    join(thread)
    return taken[0]
