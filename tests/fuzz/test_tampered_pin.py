"""Every byte of every response flipped while a PIN is changed: a fault on the bus is not a wrong PIN.

Not in the TPM, which counts the wrong ones of the whole machine, nor for whoever reads the error. What is promised for
responses that are forged as a whole, and what not, is in test_tampered_tpm.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from fuzz.effort import ALL, rounds
from fuzz.tamper import Change, Tamperer, error, name_of, some_of
from fuzz.test_tampered_tpm import harmless, outcome
from p11tpm.error import TPM
from p11tpm.tpm import provision
from unit.tpm_ground import NEW, SECRET, SO, USER, WRONG, Ground

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE = rounds(150, ALL)


@pytest.fixture
def ground(swtpm):
    with Tamperer(swtpm) as proxy, Ground(proxy) as ground:
        yield ground


def change_user(ground: Ground, old: bytes = USER) -> None:
    ground.changed = provision.change_user_auth(ground.tpm, ground.user, ground.branches, old, NEW)


def reset_user(ground: Ground, so: bytes = SO) -> None:
    ground.changed = provision.reset_user_auth(ground.tpm, ground.user, ground.so, ground.branches, so, NEW)


def change_so(ground: Ground, old: bytes = SO) -> None:
    ground.changed = provision.change_auth(ground.tpm, ground.so, old, NEW)


def nobody(_ground: Ground) -> None:
    """Begin with a TPM that has nothing of ours."""


def officer(ground: Ground) -> None:
    ground.tpm.unseal(ground.so, SO)


def user(ground: Ground) -> None:
    ground.unseal()


CHANGES = {  # the user who logged in before, what is changed
    "by the user": (nobody, change_user),
    "by the user after a login": (user, change_user),
    "by the SO": (officer, reset_user),
    "by the SO, from nothing": (nobody, reset_user),
    "of the SO": (officer, change_so),
    "of the SO, from nothing": (nobody, change_so),
}


def flips(names_and_sizes: list[tuple[str, int]]) -> Iterator[tuple[Change, int]]:
    """Return a change of each byte of each response, and how many responses to the same command come before."""
    seen: Counter[str] = Counter()
    for command, size in names_and_sizes:
        for place in range(size):
            yield Change(command, "xor", place, 1 if place % 2 else 0x80), seen[command]
        seen[command] += 1


def begin_again(ground: Ground, before) -> None:
    ground.tpm.release()
    ground.proxy.once(None)
    ground.proxy.sweep()
    before(ground)


@pytest.mark.parametrize("kind", CHANGES)
def test_no_flipped_byte_is_a_wrong_pin(ground, kind):
    before, action = CHANGES[kind]
    proxy = ground.proxy
    begin_again(ground, before)
    proxy.once(None)
    action(ground)
    usual = [(command.name, len(command.response)) for command in proxy.commands]
    for change, skip in some_of(list(flips(usual)), SAMPLE):
        begin_again(ground, before)
        proxy.once(change, skip)
        failure = outcome(lambda ground, _: action(ground), ground, None)
        assert proxy.applied, (change, skip)
        if failure:
            assert harmless(change, failure, proxy), (change, skip, failure)
        else:
            assert change.command == "FlushContext" or len(proxy.commands) > len(usual), (change, skip)
        proxy.once(None)
        assert ground.tpm.lockout().counter == 0, (change, skip, failure)
    begin_again(ground, before)
    action(ground)
    assert len(ground.tpm.unseal(ground.changed, NEW)) == len(SECRET)


@pytest.mark.parametrize("kind", CHANGES)
def test_only_the_command_that_tries_a_pin_can_refuse_one(ground, kind):
    before, action = CHANGES[kind]
    proxy = ground.proxy
    begin_again(ground, before)
    proxy.once(None)
    action(ground)
    guess = "PolicySecret" if action is reset_user else "ObjectChangeAuth"
    for name in dict.fromkeys(proxy.names):
        begin_again(ground, before)
        proxy.answer = lambda request, name=name: error(TPM.AUTH_FAIL) if name_of(request) == name else None
        failure = outcome(lambda ground, _: action(ground), ground, None)
        proxy.answer = None
        assert (getattr(failure, "code", 0) == TPM.AUTH_FAIL) == (name == guess), (name, failure)
    assert ground.tpm.lockout().counter == 0


def test_a_wrong_pin_is_one_try(ground):
    for count, action in enumerate((change_user, reset_user), 1):
        failure = outcome(lambda ground, _, action=action: action(ground, WRONG), ground, None)
        assert getattr(failure, "code", 0) == TPM.AUTH_FAIL
        assert ground.tpm.lockout().counter == count
