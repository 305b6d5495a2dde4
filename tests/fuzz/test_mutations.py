"""Random changes of everything that a TPM answers, in a recorded conversation that is played without a TPM.

Whatever is heard, an operation ends with its right result or with Error; it does not go on for ever, and no other
exception comes out. 100,000 changes with P11TPM_FUZZ_ROUNDS=100000.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rig
from fuzz.effort import rounds
from fuzz.recording import Conversation
from fuzz.tamper import resized
from p11tpm.ck import CKR
from p11tpm.error import TPM, Error
from p11tpm.tpm import importing, policy, provision, template
from rig.proxy import NAMES
from unit.tpm_ground import NEW, SECRET, SO, USER, Ground

COUNT = rounds(2000, 100_000)
POINT = (  # the base point of P-256: SEC 2, clause 2.4.2
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
IMPORTED = template.imported_ec("p256", *(number.to_bytes(32, "big") for number in POINT))  # its scalar is 1
CODES = [number for name, number in vars(TPM).items() if name.isupper()]

NUMBER = st.integers(0, 0xFFFF)
BYTES = st.binary(max_size=40)
EDIT = st.one_of(
    st.tuples(st.just("xor"), NUMBER, st.integers(1, 255)),
    st.tuples(st.just("set"), NUMBER, BYTES),
    st.tuples(st.just("put in"), NUMBER, BYTES),
    st.tuples(st.just("take out"), NUMBER, st.integers(1, 64)),
    st.tuples(st.just("cut"), NUMBER, st.none()),
    st.tuples(st.just("add"), NUMBER, BYTES),
    st.tuples(st.just("size"), st.sampled_from([10, 14, 16, 18, 20, 34, 48, 50, 68]), st.integers(0, 70) | NUMBER),
    st.tuples(
        st.just("code"), st.sampled_from([0x8001, 0x8002, 0x00C4]), st.sampled_from(CODES) | st.integers(0, 2**32 - 1)
    ),
    st.tuples(st.just("other"), NUMBER, st.none()),
    st.tuples(st.just("empty"), st.sampled_from([0x8001, 0x8002]), NUMBER),
)
PLAN = st.lists(st.tuples(st.integers(0, 15), st.lists(EDIT, min_size=1, max_size=4)), min_size=1, max_size=3)


def edited(response: bytes, edit, record) -> bytes:
    """Return a response with one edit; places are taken modulo its length."""
    kind, number, value = edit
    at = number % (len(response) or 1)
    ways = {
        "xor": lambda: response[:at] + bytes(byte ^ value for byte in response[at : at + 1]) + response[at + 1 :],
        "set": lambda: response[:at] + value + response[at + len(value) :],
        "put in": lambda: response[:at] + value + response[at:],
        "take out": lambda: response[:at] + response[at + value :],
        "cut": lambda: response[:at],
        "add": lambda: response + value,
        "size": lambda: response[:number] + value.to_bytes(2, "big") + response[number + 2 :],
        "code": lambda: number.to_bytes(2, "big") + response[2:6] + value.to_bytes(4, "big") + response[10:],
        "other": lambda: record[number % len(record)][1],
        "empty": lambda: number.to_bytes(2, "big") + bytes(8) + bytes(value % 64),
    }
    return ways[kind]()


def changer(conversation: Conversation, plan):
    """Return what a tape does to its responses; `heard` is what was really changed, by number."""
    edits = {number % len(conversation.record): list_ for number, list_ in plan}
    heard: dict[int, bytes] = {}

    def change(number: int, response: bytes) -> bytes:
        changed = response
        for edit in edits.get(number, ()):
            changed = edited(changed, edit, conversation.record)
        # the connection gives nothing that is shorter than a header or than the header says, and cuts what is longer
        changed = resized(changed[:4096].ljust(10, b"\0"))
        if changed != response:
            heard[number] = changed
        return changed

    return change, heard


@pytest.fixture(scope="module")
def conversations():
    with rig.Swtpm(max_tries=32) as swtpm, rig.CountingProxy(swtpm) as proxy:
        ground = Ground(proxy)
        so, user = ground.so, ground.user
        rsa, ecc = ground.key(template.rsa(2048)), ground.key(template.ec("p256"))
        ground.tpm.release()
        calls = {
            "login": lambda tpm: tpm.unseal(user, USER),
            "sign": lambda tpm: tpm.sign(ecc, bytes(range(32))),
            "rsa": lambda tpm: tpm.rsa(rsa, bytes(200) + bytes(range(56))),
            "ecdh": lambda tpm: tpm.ecdh(ecc, POINT),
            "random": lambda tpm: tpm.random(100),
            "create": lambda tpm: both(tpm.create(template.ec("p256"), USER)),
            "import": lambda tpm: both(importing.import_key(tpm, IMPORTED, USER, (1).to_bytes(32, "big"))),
            "login and sign": lambda tpm: (tpm.unseal(user, USER), tpm.sign(ecc, bytes(48))),
            "change": lambda tpm: both(provision.change_user_auth(tpm, user, policy.branches(so.public), USER, NEW)),
            "reset": lambda tpm: both(provision.reset_user_auth(tpm, user, so, policy.branches(so.public), SO, NEW)),
            "change SO": lambda tpm: both(provision.change_auth(tpm, so, SO, NEW)),
            "lockout": lambda tpm: vars_of(tpm.lockout()),
            "provision": lambda tpm: found(provision.provision(tpm)),
        }
        recorded = [Conversation(name, ground.tpm, call) for name, call in calls.items()]
        swtpm.clear()
        calls = {"first provision": lambda tpm: found(provision.provision(tpm))}
        return recorded + [Conversation(name, ground.tpm, call) for name, call in calls.items()]


def both(blob) -> tuple[bytes, bytes]:
    return blob.public, blob.private


def vars_of(lockout) -> list[int]:
    return [getattr(lockout, name) for name in lockout.__slots__]


def found(result: provision.Provision) -> tuple:
    return result.srk.handle, result.srk.public, result.tpm, result.capabilities


OPEN = {"lockout", "provision", "first provision"}  # what no key protects: questions, and a token that is made first
PASSWORD = (0x40000009).to_bytes(4, "big")


def is_unprotected(request: bytes) -> bool:
    """Return whether no HMAC covers the response, and none of the following ones depends on it."""
    name = NAMES.get(int.from_bytes(request[6:10], "big"), "")
    return (request[:2] == b"\x80\x01" and name != "StartAuthSession") or request[18:22] == PASSWORD


def is_refusal(error: Error) -> None:
    assert error.rv not in {CKR.OK, CKR.PIN_INCORRECT}


def test_a_recording_plays_as_it_was(conversations):
    for conversation in conversations:
        for _ in range(2):
            assert conversation.play() == conversation.result, conversation.name
    assert conversations[0].result == SECRET


@settings(
    max_examples=COUNT,
    deadline=None,
    database=None,
    derandomize=COUNT <= 2000,
    suppress_health_check=list(HealthCheck),
)
@given(which=st.integers(0, 12), plan=PLAN)
def test_nothing_but_the_right_result_or_an_error(conversations, which, plan):
    conversation = conversations[which]
    change, heard = changer(conversation, plan)
    try:
        result = conversation.play(change)
    except Error as error:
        is_refusal(error)
        return
    if conversation.name in OPEN:
        return
    assert result == conversation.result
    assert all(is_unprotected(conversation.record[number][0]) for number in heard), (conversation.name, heard)


@settings(max_examples=COUNT // 4, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(response=st.binary(max_size=300), tag=st.sampled_from([0x8001, 0x8002]), success=st.booleans())
def test_nonsense_from_the_first_word_on(conversations, response, tag, success):
    """A TPM that answers the same nonsense to everything."""
    whole = resized(tag.to_bytes(2, "big") + bytes(4) + (bytes(4) if success else b"") + response.ljust(4, b"\0"))
    for conversation in conversations:
        try:
            result = conversation.play(lambda _number, _response: whole)
        except Error as error:
            is_refusal(error)
        else:
            assert conversation.name in OPEN, result


def test_a_tpm_that_is_busy_for_ever_is_given_up(conversations):
    busy = resized(b"\x80\x01" + bytes(4) + TPM.RETRY.to_bytes(4, "big"))
    for conversation in conversations:
        with pytest.raises(Error):
            conversation.play(lambda _number, _response: busy)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64, 1000])
def test_the_point_of_a_storage_root_key(conversations, size):
    """A TPM says something about its storage root key that is on no curve."""
    public = template.srk()[:-4] + bytes([size >> 8, size & 255]) + b"\xff" * size + b"\0\x20" + b"\xff" * 32
    answer = resized(b"\x80\x01" + bytes(8) + len(public).to_bytes(2, "big") + public)
    conversation = next(one for one in conversations if one.name == "provision")
    with pytest.raises(Error) as caught:
        conversation.play(lambda number, response: response if number else answer)
    assert caught.value.rv == CKR.DEVICE_ERROR
