"""A TPM that is full, busy, reset, replaced, gone or impersonated."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from p11tpm.ck import CKR
from p11tpm.error import TPM, Error, TpmError
from p11tpm.tpm import Blob, Key, Srk, provision, template
from rig.deadline import join
from unit.tpm_ground import NEW, SECRET, SO, USER, WRONG, Ground, timer_threads


@pytest.fixture
def ground(proxy):
    with Ground(proxy) as ground:
        yield ground


@pytest.fixture
def key(ground):
    return ground.key(template.ec("p256"))


def answer_with(proxy, command: str, code: int, times: int) -> None:
    """Have the TPM answer `code` to the next commands of this name."""
    left = [times]

    def change(request: bytes, response: bytes) -> bytes:
        if left[0] and name_of_command(request) == command:
            left[0] -= 1
            return error(code)
        return response

    proxy.change = change


def name_of_command(request: bytes) -> str:
    from rig.proxy import NAMES

    return NAMES.get(int.from_bytes(request[6:10], "big"), "")


def error(code: int) -> bytes:
    return b"\x80\x01" + (10).to_bytes(4, "big") + code.to_bytes(4, "big")


def refuse(proxy, command: str, code: int, times: int) -> None:
    """As `answer_with`, but the TPM does not even see the command."""
    left = [times]

    def answer(request: bytes) -> bytes | None:
        if left[0] and name_of_command(request) == command:
            left[0] -= 1
            return error(code)
        return None

    proxy.answer = answer


# -- busy and full


@pytest.mark.parametrize("code", [TPM.RETRY, TPM.TESTING, TPM.YIELDED, TPM.NV_RATE, TPM.NV_UNAVAILABLE])
def test_a_busy_tpm_is_waited_for(ground, code):
    refuse(ground.proxy, "Unseal", code, 3)
    assert ground.unseal() == SECRET
    assert ground.proxy.names == ["StartAuthSession", "Load", *["Unseal"] * 4, "FlushContext"]


def test_a_tpm_that_stays_busy_is_not_waited_for_for_ever(ground, key):
    refuse(ground.proxy, "Sign", TPM.RETRY, 10_000)
    start = time.monotonic()
    with pytest.raises(TpmError) as caught:
        ground.sign(key)
    assert (caught.value.code, caught.value.rv) == (TPM.RETRY, CKR.DEVICE_ERROR)
    assert 2 <= time.monotonic() - start < 4


@pytest.mark.parametrize("code", [0x901, 0x902, 0x903, 0x904, 0x905])
def test_a_full_tpm_gets_our_own_handles_back_first(ground, key, code):
    ground.sign(key)
    ground.proxy.clear()
    other = ground.key(template.ec("p256"))
    refuse(ground.proxy, "Load", code, 3)
    ground.sign(other)


def test_a_tpm_that_stays_full(ground, key):
    refuse(ground.proxy, "Load", TPM.OBJECT_MEMORY, 10_000)
    with pytest.raises(TpmError) as caught:
        ground.sign(key)
    assert caught.value.rv == CKR.DEVICE_MEMORY
    assert ground.proxy.names.count("Load") == 6
    ground.proxy.answer = None
    ground.sign(key)


def test_other_programs_fill_the_tpm_and_leave_again(ground, key, swtpm):
    """Without a resource manager the slots are everybody's: two keys and the SRK, while it is used, fill all three."""
    ground.start_again()
    others = [Ground(ground.proxy) for _ in range(2)]
    for other in others:
        other.sign(other.key(template.ec("p256")))
    assert len(swtpm.loaded()) == 4
    timer = threading.Timer(0.2, others[0].tpm.release)
    timer.start()
    ground.sign(key)
    join(timer)
    for other in others:
        other.tpm.release()


def test_codes_of_a_resource_manager_are_the_tpms(ground):
    refuse(ground.proxy, "Load", 0xB0902, 1)
    assert ground.unseal() == SECRET


@pytest.mark.parametrize("code", [0x084, 0x126, 0x1C4, 0x99D, 0x9A4])
def test_a_policy_that_is_not_satisfied_is_no_stale_session(ground, key, code):
    """A use that the TPM refuses is not tried once more, as it is if the session may be another program's by now."""
    ground.sign(key)
    ground.proxy.clear()
    refuse(ground.proxy, "Sign", code, 10)
    with pytest.raises(TpmError) as caught:
        ground.sign(key)
    assert (caught.value.code, caught.value.rv) == (code, CKR.FUNCTION_FAILED)
    assert ground.proxy.names == ["Sign"]


# -- reset, replaced, gone


def test_a_power_cut_between_two_signatures(ground, key, swtpm):
    ground.sign(key)
    swtpm.restart()
    ground.sign(key)
    assert ground.unseal() == SECRET


def test_a_power_cut_in_the_middle_of_a_login(ground, swtpm):
    cuts, wanted, done = iter([True]), threading.Event(), threading.Event()

    def answer(request: bytes) -> None:
        if name_of_command(request) == "Unseal" and next(cuts, False):
            wanted.set()
            done.wait(10)

    ground.proxy.answer = answer
    with ThreadPoolExecutor(1) as pool:
        secret = pool.submit(ground.unseal)
        assert wanted.wait(10)
        swtpm.restart()  # in this thread: the software TPM ends with the one that started it
        done.set()
        assert secret.result(10) == SECRET
    assert swtpm.lockout_counter() == 1, "the TPM counts the power cut, not us"


def test_another_programs_key_has_our_handle_after_a_reset(ground, key, swtpm):
    ground.sign(key)
    swtpm.restart()
    other = Ground(ground.proxy)
    other.sign(other.key(template.ec("p256")))
    assert len(swtpm.loaded()) == 2
    ground.sign(key)


def test_the_tpm_is_gone_and_comes_back(ground, key, swtpm, capfd):
    ground.sign(key)
    swtpm.power_off()
    for _ in range(2):
        with pytest.raises(Error) as caught:
            ground.sign(key)
        assert caught.value.rv == CKR.DEVICE_REMOVED
    assert timer_threads() == 0
    swtpm.restart()
    ground.sign(key)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_that_breaks_once_is_opened_again(ground, key, when):
    broken = iter([True])

    def cut(request: bytes, _response: bytes = b"") -> bytes | None:
        if name_of_command(request) == "Sign" and next(broken, False):
            raise ConnectionError
        return _response or None

    setattr(ground.proxy, "answer" if when == "before" else "change", cut)
    ground.sign(key)


@pytest.mark.parametrize("auth", [USER, WRONG])
def test_a_pin_is_not_tried_again_when_the_connection_breaks(ground, swtpm, auth):
    tried = []

    def cut(request: bytes, response: bytes) -> bytes:
        if name_of_command(request) == "Unseal":
            tried.append(request)
            raise ConnectionError
        return response

    ground.proxy.change = cut
    with pytest.raises(Error, match="whether the PIN was right is not known") as caught:
        ground.unseal(auth)
    assert caught.value.rv == CKR.DEVICE_REMOVED
    assert len(tried) == 1
    ground.proxy.change = None
    assert swtpm.lockout_counter() == (auth == WRONG)
    assert ground.unseal() == SECRET


def test_a_cleared_tpm_is_recognised(ground, key, swtpm):
    ground.sign(key)
    swtpm.clear()
    for action in (lambda: ground.sign(key), ground.unseal, lambda: ground.key(template.ec("p256"))):
        with pytest.raises(Error, match="another TPM, or the TPM was cleared") as caught:
            action()
        assert caught.value.rv == CKR.TOKEN_NOT_RECOGNIZED


@pytest.mark.parametrize("kind", ["ecc256", "rsa2048"])
def test_another_storage_root_key_is_recognised(ground, key, swtpm, kind):
    ground.start_again()
    swtpm.clear()
    attributes = "restricted|decrypt|noda|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    context = str(swtpm.directory / "other.context")
    swtpm.tool("createprimary", "-C", "o", "-G", kind, "-a", attributes, "-c", context)
    swtpm.tool("evictcontrol", "-C", "o", "-c", context, "0x81000001")
    swtpm.flush()
    for action in (lambda: ground.sign(key), ground.unseal, lambda: ground.key(template.ec("p256"))):
        with pytest.raises(Error, match="another TPM, or the TPM was cleared"):
            action()
    assert swtpm.lockout_counter() == 0


@pytest.fixture
def transient(proxy):
    """A token on a TPM whose owner lets nothing be made persistent."""
    refuse(proxy, "EvictControl", TPM.BAD_AUTH, 1)
    ground = Ground(proxy)
    assert ground.srk.handle == 0
    assert ground.provision.srk.handle == 0
    return ground


def test_a_storage_root_key_that_is_not_persistent(transient, swtpm):
    assert transient.unseal() == SECRET
    assert transient.proxy.names == ["CreatePrimary", "StartAuthSession", "Load", "Unseal", "FlushContext"]
    key = transient.key(template.ec("p256"))
    for _ in range(2):
        transient.sign(key)
    transient.start_again()
    assert swtpm.loaded() == swtpm.persistent() == []
    user = provision.change_user_auth(transient.tpm, transient.user, transient.branches, USER, NEW)
    assert transient.tpm.unseal(user, NEW) == SECRET
    transient.tpm.unseal(transient.so, SO)
    user = provision.reset_user_auth(transient.tpm, user, transient.so, transient.branches, SO, USER)
    assert transient.tpm.unseal(user, USER) == SECRET
    transient.tpm.release()
    swtpm.clear()
    with pytest.raises(Error, match="another TPM, or the TPM was cleared"):
        transient.sign(key)
    transient.tpm.release()
    assert swtpm.loaded() == []


def test_the_store_and_the_tpm_disagree(ground, key):
    flipped = bytearray(key.private)
    flipped[40] ^= 1
    for bad in (
        Key(b"private", key.public, bytes(flipped), key.auth),
        Key(b"public", ground.user.public, key.private, key.auth),
        Key(b"auth", key.public, key.private, WRONG),
    ):
        with pytest.raises(TpmError) as caught:
            ground.tpm.sign(bad, bytes(32))
        assert caught.value.code in {TPM.INTEGRITY, TPM.BAD_AUTH}
        assert caught.value.rv == CKR.DEVICE_ERROR
    ground.sign(key)


PLACES = [f"{provision.SRK_HANDLE + index:#x}" for index in range(3)]


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("ecc256:ecdsa-sha256", "sign|userwithauth|sensitivedataorigin"),
        ("ecc256", "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"),
        ("rsa2048", "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"),
    ],
)
def test_what_cannot_be_the_parent_of_a_token_stays_and_ours_is_beside_it(swtpm, proxy, kind, attributes):
    """A key that signs, and storage keys of which the TPM counts wrong values: keys below them stop in a lockout."""
    context = str(swtpm.directory / "other.context")
    swtpm.tool("createprimary", "-C", "o", "-G", kind, "-c", context, "-a", attributes)
    swtpm.tool("evictcontrol", "-C", "o", "-c", context, PLACES[0])
    swtpm.flush()
    theirs = swtpm.tool("readpublic", "-c", PLACES[0])
    for _ in range(2):  # the second token finds the key of the first one
        with Ground(proxy) as ground:
            assert f"{ground.srk.handle:#x}" == PLACES[1]
            key = ground.key(template.ec("p256"))
            for _ in range(3):
                with pytest.raises(TpmError):
                    ground.unseal(WRONG)
            ground.sign(key)
            ground.start_again()
            ground.sign(key)
            swtpm.tool("dictionarylockout", "--clear-lockout")
    assert swtpm.tool("readpublic", "-c", PLACES[0]) == theirs
    assert swtpm.tool("getcap", "handles-persistent").count("0x81") == 2


def test_an_owner_with_an_authorisation_value(swtpm, proxy):
    swtpm.tool("changeauth", "-c", "owner", "owner-of-the-machine")
    with pytest.raises(Error, match="let the owner make a storage root key at 0x81000001"):
        Ground(proxy)


# -- impersonated: no byte of a response can be changed without notice


def login_and_sign(ground: Ground, key: Key) -> None:
    assert ground.unseal() == SECRET
    ground.sign(key)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["StartAuthSession", "Load", "Unseal", "Sign"])
def test_every_byte_of_a_response_counts(ground, key, swtpm, command):
    ground.start_again()
    size = [1]  # of the response, once one was seen
    place = 0
    while place < size[0]:

        def change(request: bytes, response: bytes, place: int = place) -> bytes:
            if name_of_command(request) != command:
                return response
            size[0] = len(response)
            changed = bytearray(response)
            changed[place] ^= changed[place] if place == 5 else 0xFF  # a size too large would only be waited for
            return bytes(changed)

        ground.proxy.change = change
        with pytest.raises(Error) as caught:
            login_and_sign(ground, key)
        assert caught.value.rv in {CKR.DEVICE_ERROR, CKR.DEVICE_REMOVED, CKR.FUNCTION_FAILED}, place
        assert getattr(caught.value, "code", 0) != TPM.AUTH_FAIL, place
        ground.proxy.change = None
        ground.tpm.release()
        swtpm.flush()  # a forged handle leaves the real one behind
        place += 1
        if place % 10 == 0:
            login_and_sign(ground, key)
            ground.start_again()
    assert place > 40
    assert ground.unseal() == SECRET
    assert swtpm.lockout_counter() == 0


def test_a_tampered_response_is_not_asked_for_again(ground, key):
    ground.sign(key)
    ground.proxy.clear()
    ground.proxy.change = lambda request, response: (
        response[:-1] + bytes([response[-1] ^ 1]) if name_of_command(request) == "Sign" else response
    )
    with pytest.raises(Error, match="TPM2_Sign was tampered with") as caught:
        ground.sign(key)
    assert caught.value.rv == CKR.DEVICE_ERROR
    assert ground.proxy.names.count("Sign") == 1


def test_a_response_shorter_than_it_says_is_not_waited_for_for_ever(ground, key):
    ground.proxy.change = lambda _request, response: response[:5] + bytes([response[5] + 1]) + response[6:]
    with pytest.raises(Error) as caught:
        ground.sign(key)
    assert caught.value.rv == CKR.DEVICE_REMOVED


def test_success_without_authorisation_is_none(ground):
    """A forged plain success in place of an error is not a success."""
    ground.proxy.change = lambda request, response: (
        b"\x80\x01" + (10).to_bytes(4, "big") + bytes(4) if name_of_command(request) == "Unseal" else response
    )
    with pytest.raises(Error, match="tampered"):
        ground.unseal(WRONG)


def test_a_blob_of_nonsense(ground):
    with pytest.raises(TpmError) as caught:
        ground.tpm.unseal(Blob(ground.user.public, b""), USER)
    assert caught.value.code != TPM.AUTH_FAIL
    with pytest.raises(ValueError, match="name algorithm"):
        Srk(0x81000001, b"\0\1\0\0")


def test_an_answer_that_makes_no_sense(ground):
    ground.proxy.change = lambda _request, _response: b"\x80\x01" + (12).to_bytes(4, "big") + bytes(6)
    with pytest.raises(Error, match="makes no sense") as caught:
        ground.tpm.lockout()
    assert caught.value.rv == CKR.DEVICE_ERROR
    ground.proxy.change = None
    assert ground.tpm.lockout().counter == 0
