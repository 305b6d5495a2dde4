"""Logins without a PIN: it comes from the file that the configuration names, or from a credential of systemd."""

import os
import subprocess

import pytest
from cryptoki import SO, USER, Rv
from keys import ec_pair

import rig
from conftest import CLI
from p11tpm.attribute import TRUE
from p11tpm.ck import CKA, CKF, CKM, CKR, CKS, CKU

PIN, SO_PIN = b"123456", b"so-secret"  # as in the fixtures


@pytest.fixture
def pin_file(tmp_path):
    return rig.write_secret(tmp_path / "service.pin", PIN.decode() + "\n")


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def settings(settings, tmp_path, pin_file, log):
    (tmp_path / "p11tpm.conf").write_text(f"log = {log}\npin-file = {pin_file}\n")
    settings.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return settings


@pytest.fixture
def anonymous(token, swtpm):
    handle = token.open(token.slots()[0])
    assert swtpm.lockout_counter() == 0
    return handle


def login(token, session, user=USER):
    """Log in without a PIN and give the return value."""
    return token.raw.C_Login(session, user, token.ffi.NULL, 0)


def is_offered(token):
    return bool(token.token_info(token.slots()[0]).flags & CKF.PROTECTED_AUTHENTICATION_PATH)


def test_the_pin_comes_from_the_file(token, anonymous):
    assert is_offered(token)
    assert login(token, anonymous) == CKR.OK
    assert token.state(anonymous) == CKS.RW_USER_FUNCTIONS
    _, key = ec_pair(token, anonymous)
    assert len(token.sign(anonymous, key, CKM.ECDSA, bytes(32))) == 64
    token.logout(anonymous)
    null = token.ffi.NULL
    token.C_LoginUser(anonymous, USER, null, 0, null, 0)


def test_a_given_pin_counts_as_ever(token, anonymous, pin_file, swtpm):
    for given, counted in ((b"", 0), (b"wrong", 1)):  # neither is NULL
        with pytest.raises(Rv, match="CKR_PIN_INCORRECT"):
            token.login(anonymous, USER, given)
        assert swtpm.lockout_counter() == counted
    pin_file.unlink()
    token.login(anonymous, USER, PIN)


SPOILT = {
    "missing": lambda file: file.unlink(),
    "open": lambda file: file.chmod(0o640),
    "empty": lambda file: file.write_text(""),
    "two lines": lambda file: file.write_text("123456\n123456\n"),
    "long": lambda file: file.write_text("1" * 129),
    "directory": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_bad_file_is_no_wrong_pin(token, anonymous, pin_file, log, proxy, spoil):
    spoil(pin_file)
    proxy.clear()
    assert login(token, anonymous) == CKR.FUNCTION_FAILED
    assert is_offered(token)
    assert proxy.commands == []
    (line,) = log.read_text().splitlines()
    assert f"error: C_Login: CKR_FUNCTION_FAILED: {pin_file}: " in line
    assert PIN.decode() not in line
    if pin_file.is_dir():
        pin_file.rmdir()
    rig.write_secret(pin_file, PIN.decode()).chmod(0o600)
    assert login(token, anonymous) == CKR.OK


def test_a_wrong_pin_in_the_file_is_counted_once(token, anonymous, pin_file, swtpm):
    rig.write_secret(pin_file, "wrong")
    for _ in range(3):
        assert login(token, anonymous) == CKR.PIN_INCORRECT
    token.finalize()
    token.initialize()
    session = token.open(token.slots()[0])
    assert login(token, session) == CKR.PIN_INCORRECT
    assert swtpm.lockout_counter() == 1
    rig.write_secret(pin_file, PIN.decode())
    assert login(token, session) == CKR.OK


def test_who_is_logged_in_needs_no_file(token, anonymous, pin_file):
    assert login(token, anonymous) == CKR.OK
    pin_file.unlink()
    assert login(token, anonymous) == CKR.USER_ALREADY_LOGGED_IN
    token.logout(anonymous)
    token.login(anonymous, SO, SO_PIN)
    assert login(token, anonymous) == CKR.USER_ANOTHER_ALREADY_LOGGED_IN


def test_all_else_needs_a_pin(token, anonymous):
    null = token.ffi.NULL
    assert login(token, anonymous, SO) == CKR.ARGUMENTS_BAD
    assert login(token, anonymous, 7) == CKR.USER_TYPE_INVALID
    assert token.raw.C_Login(anonymous, USER, null, 1) == CKR.ARGUMENTS_BAD
    assert token.raw.C_SetPIN(anonymous, null, 0, PIN, len(PIN)) == CKR.ARGUMENTS_BAD
    assert token.raw.C_SetPIN(anonymous, PIN, len(PIN), null, 0) == CKR.ARGUMENTS_BAD
    token.login(anonymous, SO, SO_PIN)
    assert token.raw.C_InitPIN(anonymous, null, 0) == CKR.ARGUMENTS_BAD


def test_a_pin_for_each_use(token, anonymous, pin_file, swtpm):
    assert login(token, anonymous) == CKR.OK
    assert login(token, anonymous, CKU.CONTEXT_SPECIFIC) == CKR.OPERATION_NOT_INITIALIZED
    _, key = ec_pair(token, anonymous, private={CKA.ALWAYS_AUTHENTICATE: TRUE})
    token.C_SignInit(anonymous, token.mechanism(CKM.ECDSA), key)
    rig.write_secret(pin_file, "wrong")
    assert login(token, anonymous, CKU.CONTEXT_SPECIFIC) == CKR.PIN_INCORRECT
    rig.write_secret(pin_file, PIN.decode())
    assert login(token, anonymous, CKU.CONTEXT_SPECIFIC) == CKR.OK
    signature = token.bytes_of(lambda out, length: token.C_Sign(anonymous, bytes(32), 32, out, length))
    assert (len(signature), swtpm.lockout_counter()) == (64, 1)


def test_a_token_without_pin(bare, pin_file):
    subprocess.run([CLI, "init", "--no-pin"], env=dict(os.environ), capture_output=True, timeout=60, check=True)
    pin_file.unlink()
    session = bare.open(bare.slots()[0])
    assert not is_offered(bare)
    assert login(bare, session) == CKR.USER_ALREADY_LOGGED_IN


def test_a_token_whose_pin_the_so_has_not_set(bare):
    bare.init_token(bare.slots()[0], SO_PIN, "fresh")
    assert login(bare, bare.open(bare.slots()[0])) == CKR.USER_PIN_NOT_INITIALIZED


def test_without_a_file_a_login_needs_a_pin(token, tmp_path):
    token.finalize()
    (tmp_path / "p11tpm.conf").write_text("log = off\n")
    token.initialize()
    assert not is_offered(token)
    assert login(token, token.open(token.slots()[0])) == CKR.ARGUMENTS_BAD


def test_a_credential_goes_before_the_file(token, settings, pin_file, tmp_path):
    directory = tmp_path / "credentials"
    directory.mkdir()
    settings.setenv("CREDENTIALS_DIRECTORY", str(directory))
    rig.write_secret(directory / "p11tpm.pin", PIN.decode()).chmod(0o440)
    session = token.open(token.slots()[0])
    rig.write_secret(pin_file, "wrong")
    assert login(token, session) == CKR.PIN_INCORRECT  # the run began without it
    token.finalize()
    token.initialize()
    session = token.open(token.slots()[0])
    pin_file.unlink()
    assert login(token, session) == CKR.OK


def test_a_file_that_is_open_to_the_group_is_no_credential(token, anonymous, pin_file):
    pin_file.chmod(0o440)
    assert login(token, anonymous) == CKR.FUNCTION_FAILED


def test_one_pin_is_not_for_all_tokens(token, tmp_path, pin_file, log):
    token.finalize()
    (tmp_path / "p11tpm.conf").write_text(f"log = {log}\ntoken = *\npin-file = {pin_file}\n")
    with pytest.raises(Rv, match="CKR_GENERAL_ERROR"):
        token.initialize()
