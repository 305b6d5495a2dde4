"""Logins, PIN changes, wrong PINs and what a token says of them."""

import contextlib
import os
import subprocess
import threading

import pytest
from cryptoki import RO, SO, USER, Cryptoki, Rv
from keys import ec_pair

from conftest import CLI
from p11tpm.ck import CKA, CKF, CKM, CKO, CKR, CKS, CKU
from p11tpm.tpm import command
from p11tpm.tpm.codec import u32
from rig.process import wait_until

PIN, SO_PIN = b"123456", b"so-secret"
GET_CAPABILITY = (0x17A).to_bytes(4, "big")
PRIVATE_KEY = CKO.PRIVATE_KEY.to_bytes(8, "little")


def refused(rv, call, *args):
    with pytest.raises(Rv) as error:
        call(*args)
    assert error.value == rv


@pytest.fixture
def slot(token):
    return token.slots()[0]


@pytest.fixture
def anonymous(token, slot):
    return token.open(slot)


def test_login_is_shared_by_all_sessions(token, slot, anonymous):
    read_only = token.open(slot, RO)
    assert token.state(read_only) == CKS.RO_PUBLIC_SESSION
    token.login(read_only, USER, PIN)
    assert token.state(read_only) == CKS.RO_USER_FUNCTIONS
    assert CKS.RW_USER_FUNCTIONS == token.state(anonymous) == token.state(token.open(slot))
    refused(CKR.USER_ALREADY_LOGGED_IN, token.login, anonymous, USER, PIN)
    refused(CKR.USER_ANOTHER_ALREADY_LOGGED_IN, token.login, anonymous, SO, SO_PIN)
    token.logout(anonymous)
    assert token.state(read_only) == CKS.RO_PUBLIC_SESSION
    refused(CKR.USER_NOT_LOGGED_IN, token.logout, anonymous)


def test_the_last_session_ends_the_login(token, slot, anonymous):
    other = token.open(slot)
    token.login(anonymous, USER, PIN)
    token.close(anonymous)
    assert token.state(other) == CKS.RW_USER_FUNCTIONS
    token.close(other)
    assert token.state(token.open(slot)) == CKS.RW_PUBLIC_SESSION


def test_the_so_needs_read_write_sessions(token, slot, anonymous):
    read_only = token.open(slot, RO)
    refused(CKR.SESSION_READ_ONLY_EXISTS, token.login, anonymous, SO, SO_PIN)
    token.close(read_only)
    token.login(anonymous, SO, SO_PIN)
    assert token.state(anonymous) == CKS.RW_SO_FUNCTIONS
    refused(CKR.SESSION_READ_WRITE_SO_EXISTS, token.open, slot, RO)


def test_user_types(token, anonymous):
    refused(CKR.USER_TYPE_INVALID, token.login, anonymous, 7, PIN)
    refused(CKR.OPERATION_NOT_INITIALIZED, token.login, anonymous, CKU.CONTEXT_SPECIFIC, PIN)


def test_the_user_changes_the_pin(token, slot, anonymous):
    token.login(anonymous, USER, PIN)
    _, key = ec_pair(token, anonymous)
    token.set_pin(anonymous, PIN, b"new pin")
    token.sign(anonymous, key, CKM.ECDSA, bytes(32))
    token.logout(anonymous)
    refused(CKR.PIN_INCORRECT, token.login, anonymous, USER, PIN)
    token.login(anonymous, USER, b"new pin")
    (key,) = token.find(anonymous, {CKA.CLASS: PRIVATE_KEY})
    token.sign(anonymous, key, CKM.ECDSA, bytes(32))
    token.set_pin(anonymous, b"new pin", PIN)
    token.logout(anonymous)
    token.login(anonymous, USER, PIN)
    refused(CKR.SESSION_READ_ONLY, token.set_pin, token.open(slot, RO), PIN, b"new pin")


def test_a_wrong_old_pin_changes_nothing_and_counts_once(token, slot, anonymous):
    refused(CKR.PIN_INCORRECT, token.set_pin, anonymous, b"wrong", b"new pin")
    assert token.token_info(slot).flags & CKF.USER_PIN_COUNT_LOW
    token.login(anonymous, USER, PIN)
    assert not token.token_info(slot).flags & CKF.USER_PIN_COUNT_LOW


@pytest.mark.parametrize("new", [b"", b"123", b"x" * 129])
def test_the_length_of_a_new_pin(token, anonymous, new):
    refused(CKR.PIN_LEN_RANGE, token.set_pin, anonymous, PIN, new)
    token.login(anonymous, USER, PIN)


@pytest.mark.parametrize("pin", [b"", b"x" * 129])
def test_what_is_no_pin_costs_no_try(token, slot, anonymous, swtpm, pin):
    refused(CKR.PIN_INCORRECT, token.login, anonymous, USER, pin)
    refused(CKR.PIN_INCORRECT, token.login, anonymous, SO, pin)
    refused(CKR.PIN_INCORRECT if not pin else CKR.PIN_LEN_RANGE, token.set_pin, anonymous, pin, b"new pin")
    assert not token.token_info(slot).flags & (CKF.USER_PIN_COUNT_LOW | CKF.SO_PIN_COUNT_LOW)
    assert swtpm.lockout_counter() == 0


@pytest.mark.parametrize("new", [b"1234", b"x" * 128, "žluť".encode(), b"ends in zeros\0\0"])
def test_pins_that_are_allowed(token, anonymous, new):
    token.set_pin(anonymous, PIN, new)
    token.login(anonymous, USER, new)


def test_a_pin_that_is_no_text(token, anonymous):
    refused(CKR.PIN_INVALID, token.set_pin, anonymous, PIN, b"\xff\xfe\xfd\xfc")


def test_the_so_resets_the_pin_and_can_not_use_keys(token, anonymous):
    token.login(anonymous, USER, PIN)
    _, key = ec_pair(token, anonymous)
    token.logout(anonymous)
    refused(CKR.USER_NOT_LOGGED_IN, token.init_pin, anonymous, b"by nobody")
    token.login(anonymous, SO, SO_PIN)
    assert token.find(anonymous, {CKA.CLASS: PRIVATE_KEY}) == []
    assert token.raw.C_SignInit(anonymous, token.mechanism(CKM.ECDSA), key) == CKR.KEY_HANDLE_INVALID
    token.init_pin(anonymous, b"by the SO")
    token.set_pin(anonymous, SO_PIN, b"SO's new one")
    token.init_pin(anonymous, b"by the SO 2")
    token.logout(anonymous)
    token.login(anonymous, USER, b"by the SO 2")
    (key,) = token.find(anonymous, {CKA.CLASS: PRIVATE_KEY})
    token.sign(anonymous, key, CKM.ECDSA, bytes(32))
    token.logout(anonymous)
    refused(CKR.PIN_INCORRECT, token.login, anonymous, SO, SO_PIN)
    token.login(anonymous, SO, b"SO's new one")


def test_a_token_without_pin_needs_no_login(bare):
    """Programs that log in whatever the token says take CKR_USER_ALREADY_LOGGED_IN for a success."""
    subprocess.run([CLI, "init", "--no-pin"], env=dict(os.environ), capture_output=True, timeout=60, check=True)
    session = bare.open(bare.slots()[0])
    assert not bare.token_info(bare.slots()[0]).flags & CKF.LOGIN_REQUIRED
    refused(CKR.USER_ALREADY_LOGGED_IN, bare.login, session, USER, PIN)
    refused(CKR.USER_PIN_NOT_INITIALIZED, bare.set_pin, session, PIN, b"new pin")


def test_no_pin_before_the_so_has_set_one(bare):
    slot = bare.slots()[0]
    bare.init_token(slot, SO_PIN, "fresh")
    session = bare.open(slot)
    assert not bare.token_info(slot).flags & CKF.USER_PIN_INITIALIZED
    refused(CKR.USER_PIN_NOT_INITIALIZED, bare.login, session, USER, PIN)
    refused(CKR.USER_PIN_NOT_INITIALIZED, bare.set_pin, session, PIN, b"new pin")


def test_wrong_pins_stop_before_the_tpm_is_locked(token, slot, anonymous, swtpm):
    """swtpm locks at 3 failures: one is kept in reserve for everybody else."""
    refused(CKR.PIN_INCORRECT, token.login, anonymous, USER, b"wrong 1")
    refused(CKR.PIN_INCORRECT, token.login, anonymous, USER, b"wrong 2")
    for guess in (b"wrong 3", b"wrong 4", PIN):
        refused(CKR.PIN_LOCKED, token.login, anonymous, USER, guess)
    assert token.token_info(slot).flags & CKF.USER_PIN_LOCKED
    token.finalize()
    state = swtpm.tool("getcap", "properties-variable")
    assert "inLockout:                 0" in state
    assert "TPM2_PT_LOCKOUT_COUNTER: 0x2" in state


def test_wrong_pins_count_in_the_next_run_too(token, slot, anonymous):
    for guess in (b"wrong 1", b"wrong 2"):
        refused(CKR.PIN_INCORRECT, token.login, anonymous, USER, guess)
    token.finalize()
    token.initialize()
    session = token.open(slot)
    refused(CKR.PIN_LOCKED, token.login, session, USER, b"wrong 3")
    assert token.token_info(slot).flags & (CKF.USER_PIN_LOCKED | CKF.USER_PIN_COUNT_LOW)


def test_wrong_pins_of_others_count_at_once(token, slot, anonymous, proxy, swtpm):
    """What the TPM had counted a moment before is out of date once another program has tried PINs."""
    refused(CKR.PIN_INCORRECT, token.login, anonymous, USER, b"wrong 1")
    assert token.token_info(slot).flags & CKF.USER_PIN_COUNT_LOW
    counter = (0x20E).to_bytes(4, "big")  # TPM_PT_LOCKOUT_COUNTER
    one, two = (counter + number.to_bytes(4, "big") for number in (1, 2))
    proxy.change = lambda _request, response: response.replace(one, two)
    refused(CKR.PIN_LOCKED, token.login, anonymous, USER, b"wrong 2")
    assert swtpm.lockout_counter() == 1


def test_no_pin_is_tried_where_nothing_is_noted_and_the_tpm_does_not_tell(token, anonymous, proxy, swtpm, store):
    (store / "p11tpm.lock").unlink()
    (store / "p11tpm.lock").symlink_to(store / "elsewhere")
    failed = b"\x80\x01" + (10).to_bytes(4, "big") + (0x101).to_bytes(4, "big")  # TPM_RC_FAILURE
    proxy.answer = lambda request: failed if request[6:10] == GET_CAPABILITY else None
    for guess in (b"wrong 1", b"wrong 2", PIN):
        refused(CKR.DEVICE_ERROR, token.login, anonymous, USER, guess)
    proxy.answer = None
    assert swtpm.lockout_counter() == 0
    token.login(anonymous, USER, PIN)


@pytest.fixture
def silence(proxy, monkeypatch):
    """Return a context in which the TPM does not answer a command of this kind."""

    @contextlib.contextmanager
    def silence(kind):
        going_on = threading.Event()
        monkeypatch.setattr(kind, "seconds", 0.3)
        proxy.answer = lambda request: going_on.wait(30) and None if request[6:10] == u32(kind.code) else None
        yield
        going_on.set()
        proxy.answer = None

    return silence


def test_a_tpm_that_does_not_tell_what_it_has_counted_is_asked_nothing_more(token, anonymous, proxy, silence, swtpm):
    refused(CKR.PIN_INCORRECT, token.login, anonymous, USER, b"wrong")
    proxy.clear()
    with silence(command.GET_CAPABILITY):
        refused(CKR.DEVICE_ERROR, token.login, anonymous, USER, PIN)
    wait_until(lambda: proxy.names, "the response that nobody waited for")
    token.login(anonymous, USER, PIN)
    assert proxy.names.count("GetCapability") == 2
    assert proxy.names.count("StartAuthSession") == 1
    assert swtpm.lockout_counter() == 1


@pytest.mark.parametrize(("kind", "note"), [(command.LOAD, b"."), (command.UNSEAL, b"!")], ids=["Load", "Unseal"])
def test_a_tpm_that_does_not_answer_a_try_has_seen_no_wrong_pin(token, anonymous, silence, store, kind, note):
    lock = store / "p11tpm.lock"
    with silence(kind):
        refused(CKR.DEVICE_ERROR, token.login, anonymous, USER, PIN)
        assert lock.read_bytes() == note, "whether it was tried"
    token.login(anonymous, USER, PIN)
    assert lock.read_bytes() == b"."


def test_a_pin_that_failed_works_once_the_so_has_set_it(token, anonymous):
    refused(CKR.PIN_INCORRECT, token.login, anonymous, USER, b"soon right")
    token.login(anonymous, SO, SO_PIN)
    token.init_pin(anonymous, b"soon right")
    token.logout(anonymous)
    token.login(anonymous, USER, b"soon right")


def test_the_soft_limit(settings, module_path):
    import rig

    with rig.Swtpm(max_tries=32) as tpm:
        settings.setenv("P11TPM_TCTI", tpm.tcti)
        run = Cryptoki(module_path)
        run.initialize()
        try:
            slot = run.slots()[0]
            run.init_token(slot, SO_PIN, "token")
            session = run.open(slot)
            run.login(session, SO, SO_PIN)
            run.init_pin(session, PIN)
            run.logout(session)
            for number in range(5):
                flags = run.token_info(slot).flags
                assert bool(flags & CKF.USER_PIN_COUNT_LOW) == (number > 0)
                assert bool(flags & CKF.USER_PIN_FINAL_TRY) == (number == 4)
                refused(CKR.PIN_INCORRECT, run.login, session, USER, b"wrong %d" % number)
            assert run.token_info(slot).flags & CKF.USER_PIN_LOCKED
            refused(CKR.PIN_LOCKED, run.login, session, USER, PIN)
            run.login(session, SO, SO_PIN)
            run.init_pin(session, PIN)
            run.logout(session)
            run.login(session, USER, PIN)
            assert not run.token_info(slot).flags & CKF.USER_PIN_COUNT_LOW
        finally:
            run.finalize()


def test_init_token_again_destroys_everything(token, slot, anonymous):
    token.login(anonymous, USER, PIN)
    ec_pair(token, anonymous)
    refused(CKR.SESSION_EXISTS, token.init_token, slot, SO_PIN, "again")
    token.close(anonymous)
    refused(CKR.PIN_INCORRECT, token.init_token, slot, b"not the SO's", "again")
    assert b"test token".ljust(32) == bytes(token.ffi.buffer(token.token_info(slot).label))
    token.init_token(slot, SO_PIN, "again")
    assert b"again".ljust(32) == bytes(token.ffi.buffer(token.token_info(slot).label))
    session = token.open(slot)
    assert token.find(session, {}) == []
    refused(CKR.USER_PIN_NOT_INITIALIZED, token.login, session, USER, PIN)
