"""Every byte of every response of a login and a signature changed, cut and extended: at the level of Tpm.

Never a wrong result, never another exception than Error, never a wrong PIN, and the next call works. The whole grid
runs with P11TPM_FUZZ_ROUNDS=all, a sample of it by default.

What is promised, and what not: a response of success carries an HMAC under a key that only the TPM and we have, so
nobody can make or change one. An error response carries none (TPM 2.0 Part 1, clause 18.3): anyone who can write to the
bus may answer any command with any error, 98E to Unseal among them, which looks like a wrong PIN and is counted as one
in the store (not in the TPM). That costs the user tries, as cutting the bus costs him everything, but it never makes
anything succeed. A single changed byte cannot do it: tag, size and code would have to change together.
"""

from __future__ import annotations

import os

import pytest

from fuzz.effort import ALL, rounds
from fuzz.tamper import Change, Tamperer, error, every_change, name_of, some_of
from p11tpm.ck import CKR
from p11tpm.error import TPM, Error, TpmError
from p11tpm.tpm import Key, template
from p11tpm.tpm.connection import StaleError
from unit.tpm_ground import SECRET, WRONG, Ground, public_key

SAMPLE = rounds(120, ALL)


@pytest.fixture
def ground(swtpm):
    with Tamperer(swtpm) as proxy, Ground(proxy) as ground:
        yield ground


@pytest.fixture
def key(ground):
    return ground.key(template.ec("p256"))


def login(ground: Ground, _key: Key | None) -> None:
    assert ground.unseal() == SECRET


def sign(ground: Ground, key: Key) -> None:
    ground.sign(key)


def decrypt(ground: Ground, key: Key) -> None:
    block = bytes(1) + os.urandom(255)
    modulus, exponent = template.rsa_numbers(key.public)
    assert pow(int.from_bytes(ground.tpm.rsa(key, block), "big"), exponent, modulus) == int.from_bytes(block, "big")


def agree(ground: Ground, key: Key) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    other = ec.generate_private_key(ec.SECP256R1())
    point = other.public_key().public_numbers()
    assert ground.tpm.ecdh(key, (point.x, point.y)) == other.exchange(ec.ECDH(), public_key(key))


def nothing(_ground: Ground, _key: Key) -> None:
    """Begin with a TPM that has nothing of ours."""


CONVERSATIONS = {  # what comes before without a change, what is changed
    "login": (nothing, login),
    "a signature after a login": (login, sign),
    "a signature after a pause": (nothing, sign),
    "a key agreement": (nothing, agree),
}


def sizes_of(ground: Ground, key: Key, before, action) -> dict[str, int]:
    before(ground, key)
    ground.proxy.once(None)
    action(ground, key)
    sizes = {command.name: len(command.response) for command in ground.proxy.commands}
    ground.tpm.release()
    return sizes


def outcome(action, ground: Ground, key: Key | None) -> Error | None:
    """Return the error that an action ends with, None after success, which is checked to be right."""
    try:
        action(ground, key)
    except Error as error:
        return error
    return None


def harmless(change, failure: Error | None, proxy: Tamperer) -> bool:
    """Return whether an action ended as it should after a change: a broken connection is asked again."""
    if failure is None:
        return not proxy.applied or not change.must_be_noticed or proxy.names.count(change.command) > 1
    return (
        failure.rv not in {CKR.OK, CKR.PIN_INCORRECT, CKR.PIN_LOCKED}
        and getattr(failure, "code", 0) != TPM.AUTH_FAIL
        and failure.rv in {CKR.DEVICE_ERROR, CKR.DEVICE_REMOVED, CKR.FUNCTION_FAILED}
    )


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_no_change_is_taken_for_the_tpms_answer(ground, key, swtpm, conversation):
    before, action = CONVERSATIONS[conversation]
    proxy = ground.proxy
    changes = some_of(list(every_change(sizes_of(ground, key, before, action))), SAMPLE)
    applied = 0
    for change in changes:
        before(ground, key)
        proxy.once(change)
        failure = outcome(action, ground, key)
        assert harmless(change, failure, proxy), (change, failure)
        applied += proxy.applied
        proxy.once(None)
        action(ground, key)  # the next call works
        ground.tpm.release()
        proxy.sweep()
    print(f"{conversation}: {applied} changes of {len(changes)}")  # noqa: T201 - for whoever asks for it with -rP
    assert applied > len(changes) * 0.8
    assert proxy.loaded() == 0
    assert swtpm.lockout_counter() == 0, "the TPM has seen no wrong authorisation value"


def test_the_same_for_rsa_decrypt(ground, swtpm):
    """A response that is long, and whose leading zero bytes do not count."""
    key = ground.key(template.rsa(2048))
    changes = some_of(list(every_change(sizes_of(ground, key, login, decrypt))), SAMPLE // 4)
    for change in changes:
        login(ground, key)
        ground.proxy.once(change)
        failure = outcome(decrypt, ground, key)
        assert harmless(change, failure, ground.proxy), (change, failure)
        ground.tpm.release()
        ground.proxy.sweep()
    ground.proxy.once(None)
    decrypt(ground, key)
    assert swtpm.lockout_counter() == 0


@pytest.mark.parametrize("command", ["StartAuthSession", "Load", "FlushContext"])
@pytest.mark.parametrize("code", [TPM.AUTH_FAIL, TPM.BAD_AUTH, 0xB098E, 0x10098E, 0xFFFFFFFF])
def test_a_command_that_tries_no_pin_can_not_refuse_one(ground, command, code):
    """Only Unseal shows the TPM the PIN: whatever is answered to another command is not a wrong PIN."""
    ground.proxy.answer = lambda request: error(code) if name_of(request) == command else None
    failure = outcome(login, ground, None)
    assert getattr(failure, "code", 0) != TPM.AUTH_FAIL
    assert (failure is None) == (command == "FlushContext")
    ground.proxy.answer = None
    ground.proxy.sweep()
    assert ground.unseal() == SECRET


def test_a_forged_handle_is_not_kept(ground, key):
    """The handle that Load gives is in no HMAC: what then says that it is none must not be believed for ever."""
    ground.tpm.release()
    ground.proxy.once(Change("Load", "xor", 10, 1))  # a persistent handle, 0x184 from Sign
    with pytest.raises(TpmError):
        ground.sign(key)
    ground.proxy.once(None)
    ground.sign(key)


def test_a_storage_root_key_that_is_protected_against_guessing(swtpm):
    """Such a SRK answers 98E, not 9A2, to a session that somebody spoilt: a single bit, but no wrong PIN."""
    attributes = "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    context = str(swtpm.directory / "srk.context")
    swtpm.tool("createprimary", "-C", "o", "-G", "ecc256", "-a", attributes, "-c", context)
    swtpm.tool("evictcontrol", "-C", "o", "-c", context, "0x81000001")
    swtpm.flush()
    with Tamperer(swtpm) as proxy, Ground(proxy) as ground:
        proxy.once(Change("StartAuthSession", "xor", 20, 1))  # in nonceTPM
        with pytest.raises(Error) as caught:
            ground.unseal()
        assert getattr(caught.value, "code", 0) != TPM.AUTH_FAIL
        assert proxy.names[:2] == ["StartAuthSession", "Load"]
        assert "Unseal" not in proxy.names


def test_what_is_not_promised(ground, swtpm):
    """A forged 98E to Unseal looks as if the TPM had said it; the TPM itself has counted nothing."""
    ground.proxy.answer = lambda request: error(TPM.AUTH_FAIL) if name_of(request) == "Unseal" else None
    with pytest.raises(TpmError) as caught:
        ground.unseal()
    assert caught.value.code == TPM.AUTH_FAIL
    ground.proxy.answer = None
    assert swtpm.lockout_counter() == 0
    assert ground.unseal() == SECRET


def test_nor_the_other_way_round(ground, swtpm):
    """A wrong value stays wrong, whatever a success is made of: recorded, or put together without the key."""
    assert ground.unseal() == SECRET
    recorded = next(entry.response for entry in ground.proxy.commands if entry.name == "Unseal")
    ground.tpm.release()
    blank = b"\x80\x02" + (0).to_bytes(4, "big") + bytes(4)
    unprotected = [
        recorded,
        b"\x80\x01" + recorded[2:],
        blank + (34).to_bytes(4, "big") + b"\0\x20" + SECRET + bytes(5),
        blank + (34).to_bytes(4, "big") + b"\0\x20" + SECRET + b"\0\0\1\0\0",
        blank + (34).to_bytes(4, "big") + b"\0\x20" + SECRET + b"\0\x20" + bytes(32) + b"\x41" + b"\0\x20" + bytes(32),
        b"\x80\x01" + bytes(8) + b"\0\x20" + SECRET,
    ]
    for forged in unprotected:
        whole = forged[:2] + len(forged).to_bytes(4, "big") + forged[6:]
        ground.proxy.answer = lambda request, whole=whole: whole if name_of(request) == "Unseal" else None
        with pytest.raises(Error, match="tampered"):
            ground.unseal(WRONG)
        with pytest.raises(Error, match="tampered"):
            ground.unseal()
        ground.proxy.answer = None
        ground.proxy.sweep()
    assert swtpm.lockout_counter() == 0
    assert ground.unseal() == SECRET
    assert not issubclass(StaleError, Error)
