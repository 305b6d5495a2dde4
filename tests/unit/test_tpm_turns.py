"""Threads take turns with a TPM: many commands in a row let others in between."""

from __future__ import annotations

import hmac
import os
import threading

import pytest

from p11tpm.tpm import DisplacedError, Key, Tpm, command, symmetric, template
from p11tpm.tpm.codec import sized, u16
from p11tpm.tpm.tpm import repeated
from p11tpm.tpm.turns import Turns
from rig.deadline import join
from rig.process import wait_until
from rig.proxy import Command
from unit.tpm_ground import Ground

PARTS = 64
SIGNATURES = 3
VALUE = bytes(range(32))


@pytest.fixture
def ground(proxy):
    with Ground(proxy) as ground:
        yield ground


class Held:
    """A long operation of another thread that goes on to the next signature and no further, however slow threads are.

    The response to each fourth of its commands of a name is held until this thread waits for its turn.
    """

    def __init__(self, ground: Ground, name: str) -> None:
        self._ground = ground
        self._name = name
        self._seen = self._held = self._signed = 0
        ground.proxy.change = self._change

    def _change(self, request: bytes, response: bytes) -> bytes:
        self._seen += Command(request, response).name == self._name
        number, rest = divmod(self._seen, 4)
        if not rest and self._held < number <= SIGNATURES:
            self._held = number
            waits = self._ground.tpm.lock._gate.locked  # noqa: SLF001 - the thread whose turn is next has it
            wait_until(waits, "a signature that waits")
        return response

    def sign(self, key: Key) -> int:
        """Sign, and count the operation's commands before the signature that begins to wait while one is sent."""
        self._signed += 1
        wait_until(lambda: self._held == self._signed, "some parts")
        before = len(self._ground.proxy.names)
        self._ground.sign(key)
        meanwhile = self._ground.proxy.names[before:]
        return meanwhile[: meanwhile.index("Sign")].count(self._name)


def test_a_signature_does_not_wait_for_a_long_encryption(ground):
    long, short = ground.key(template.aes(128, made=True)), ground.key(template.ec("p256"))
    ground.start_again()
    held = Held(ground, "EncryptDecrypt2")

    def encrypt() -> None:
        for _ in range(PARTS):
            symmetric.crypt(ground.tpm, long, "cbc", bytes(16), bytes(symmetric.MOST), encrypt=True)

    thread = threading.Thread(target=encrypt, daemon=True)
    thread.start()
    for _ in range(SIGNATURES):
        assert held.sign(short) == 1
    join(thread)
    assert ground.proxy.names.count("EncryptDecrypt2") == PARTS


@pytest.fixture
def long(ground):
    """A key for messages of many parts."""
    auth = os.urandom(32)
    blob = ground.tpm.create(template.hmac("sha256"), auth, VALUE)
    return Key(os.urandom(16), blob.public, blob.private, auth)


def started(ground, action) -> threading.Thread:
    """Begin a long HMAC, of which some parts are done."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    wait_until(lambda: ground.proxy.names.count("SequenceUpdate") > 3, "some parts")
    return thread


def test_a_signature_does_not_wait_for_the_hmac_of_a_long_message(ground, long):
    short, codes, message = ground.key(template.ec("p256")), [], os.urandom(PARTS * symmetric.MOST)
    ground.start_again()
    held = Held(ground, "SequenceUpdate")

    def mac() -> None:
        codes.append(symmetric.mac(ground.tpm, long, "sha256", message))

    thread = threading.Thread(target=mac, daemon=True)
    thread.start()
    for _ in range(SIGNATURES):
        assert held.sign(short) == 1
    join(thread)
    assert codes == [hmac.new(VALUE, message, "sha256").digest()]
    assert ground.proxy.names.count("HMAC_Start") == 1


def test_a_long_message_is_told_that_its_sequence_is_gone(ground, long):
    told = []
    ground.start_again()

    def mac() -> None:
        with pytest.raises(DisplacedError):
            symmetric.mac(ground.tpm, long, "sha256", bytes(PARTS * symmetric.MOST))
        told.append(True)

    thread = started(ground, mac)
    ground.tpm.release()
    join(thread)
    assert told
    assert "SequenceComplete" not in ground.proxy.names


def test_a_sequence_does_not_outlive_its_connection(ground, swtpm, long):
    """Where no resource manager flushes it, it would take one of the few places for objects until the next reset."""
    ground.start_again()

    @repeated
    def begin(tpm: Tpm) -> None:
        session, key = tpm.loaded.session(), tpm.loaded.key(long)
        start = sized(long.auth) + u16(0x000B)
        tpm.wire.authorised(command.HMAC_START, session, (key,), long.auth, start)

    begin(ground.tpm)
    assert len([handle for handle in swtpm.loaded() if handle.startswith("0x8")]) == 2, "the key and the sequence"
    ground.tpm.release()
    assert swtpm.loaded() == []


def test_other_programs_wait_while_a_pin_is_tried(ground, swtpm):
    """Where no resource manager keeps programs apart, they could take the sealed object for a key of theirs."""
    key, served = ground.key(template.ec("p256")), []
    ground.start_again()
    first, second = Tpm(swtpm.tcti), Tpm(swtpm.tcti)
    for tpm in (first, second):
        tpm.bind(ground.srk)

    def sign() -> None:
        second.sign(key, bytes(32))
        served.append("second")

    thread = threading.Thread(target=sign, daemon=True)

    @repeated
    def try_pin(tpm: Tpm) -> None:
        handle, _ = tpm.loaded.load(ground.user, salted=True)
        thread.start()
        thread.join(0.5)  # in vain
        tpm.let_go(handle)
        served.append("first")

    try_pin(first)
    join(thread)
    assert served == ["first", "second"]
    for tpm in (first, second):
        tpm.release()


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
