"""Keys that want the PIN for each use: CKA_ALWAYS_AUTHENTICATE and C_Login(CKU_CONTEXT_SPECIFIC)."""

import os

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptoki import SO, USER, Rv
from keys import TOKEN, ec_pair, public_key, rsa_pair, verify_ecdsa

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKF, CKM, CKR, CKS, CKU

PIN = b"123456"
ALWAYS = {CKA.ALWAYS_AUTHENTICATE: TRUE}
DATA = b"what is signed"


@pytest.fixture
def pair(token, session):
    return ec_pair(token, session, private=ALWAYS)


def again(token, session, pin=PIN):
    return token.raw.C_Login(session, CKU.CONTEXT_SPECIFIC, pin, len(pin))


def begin(token, session, key, mechanism=CKM.ECDSA_SHA256):
    token.C_SignInit(session, token.mechanism(mechanism), key)


def sign(token, session):
    """Return the return value of C_Sign with a buffer that is large enough."""
    length = token.ulong()
    length[0] = 512
    return token.raw.C_Sign(session, DATA, len(DATA), token.ffi.new("CK_BYTE[512]"), length)


def signature(token, session):
    return token.bytes_of(lambda out, length: token.C_Sign(session, DATA, len(DATA), out, length))


def test_a_pin_is_good_for_one_signature(token, session, pair):
    public, private = pair
    assert token.get(session, private, CKA.ALWAYS_AUTHENTICATE) == TRUE
    for _ in range(2):
        begin(token, session, private)
        assert again(token, session) == CKR.OK
        verify_ecdsa(public_key(token, session, public), signature(token, session), DATA, "sha256")
        assert sign(token, session) == CKR.OPERATION_NOT_INITIALIZED
        assert again(token, session) == CKR.OPERATION_NOT_INITIALIZED


def test_without_the_pin_the_operation_ends(token, session, pair):
    begin(token, session, pair[1])
    assert sign(token, session) == CKR.USER_NOT_LOGGED_IN
    assert sign(token, session) == CKR.OPERATION_NOT_INITIALIZED
    assert token.state(session) == CKS.RW_USER_FUNCTIONS


def test_no_tpm_command_is_made_for_the_key_without_the_pin(token, session, pair, proxy):
    begin(token, session, pair[1])
    proxy.clear()
    assert sign(token, session) == CKR.USER_NOT_LOGGED_IN
    assert [command.name for command in proxy.commands] == []


def test_a_length_query_uses_up_nothing(token, session, pair):
    begin(token, session, pair[1])
    length = token.ulong()
    token.C_Sign(session, DATA, len(DATA), token.ffi.NULL, length)
    assert again(token, session) == CKR.OK
    token.C_Sign(session, DATA, len(DATA), token.ffi.NULL, length)
    length[0] = 1
    assert token.raw.C_Sign(session, DATA, len(DATA), token.ffi.new("CK_BYTE[1]"), length) == CKR.BUFFER_TOO_SMALL
    assert sign(token, session) == CKR.OK


def test_a_pin_is_good_for_one_signature_in_parts(token, session, pair):
    for _ in range(2):
        begin(token, session, pair[1])
        assert again(token, session) == CKR.OK
        for byte in DATA:
            token.C_SignUpdate(session, bytes([byte]), 1)
        made = token.bytes_of(lambda out, length: token.C_SignFinal(session, out, length))
        verify_ecdsa(public_key(token, session, pair[0]), made, DATA, "sha256")
        begin(token, session, pair[1])
        token.C_SignUpdate(session, DATA, len(DATA))
        length = token.ulong()
        length[0] = 512
        out = token.ffi.new("CK_BYTE[512]")
        assert token.raw.C_SignFinal(session, out, length) == CKR.USER_NOT_LOGGED_IN


def test_a_wrong_pin_is_counted_and_the_operation_waits_on(token, session, pair):
    slot = token.slots()[0]
    begin(token, session, pair[1])
    assert again(token, session, b"wrong!") == CKR.PIN_INCORRECT
    assert token.token_info(slot).flags & CKF.USER_PIN_COUNT_LOW
    assert again(token, session) == CKR.OK
    assert not token.token_info(slot).flags & CKF.USER_PIN_COUNT_LOW
    assert sign(token, session) == CKR.OK
    begin(token, session, pair[1])
    assert again(token, session, b"wrong again") == CKR.PIN_INCORRECT
    assert sign(token, session) == CKR.USER_NOT_LOGGED_IN
    assert token.state(session) == CKS.RW_USER_FUNCTIONS


def test_a_pin_that_gets_locked_logs_the_user_out(token, session, pair):
    begin(token, session, pair[1])
    for number in range(8):
        rv = again(token, session, b"wrong %d" % number)
        if rv != CKR.PIN_INCORRECT:
            break
    assert rv == CKR.PIN_LOCKED
    assert token.state(session) == CKS.RW_PUBLIC_SESSION
    assert sign(token, session) == CKR.OPERATION_NOT_INITIALIZED


def test_nothing_waits(token, session, pair):
    """Neither without an operation, nor with one by another key, which goes on."""
    assert again(token, session) == CKR.OPERATION_NOT_INITIALIZED
    _, usual = ec_pair(token, session, id_=b"9")
    begin(token, session, usual)
    assert again(token, session) == CKR.OPERATION_NOT_INITIALIZED
    assert sign(token, session) == CKR.OK
    assert token.raw.C_SignInit(session, token.mechanism(CKM.RSA_PKCS), pair[1]) == CKR.KEY_TYPE_INCONSISTENT
    token.C_FindObjectsInit(session, token.ffi.NULL, 0)
    assert again(token, session) == CKR.OPERATION_NOT_INITIALIZED
    token.C_FindObjectsFinal(session)
    begin(token, session, pair[1])
    token.C_SessionCancel(session, CKF.SIGN)
    assert again(token, session) == CKR.OPERATION_NOT_INITIALIZED


def test_a_pin_is_for_the_session_that_it_is_given_to(token, session, pair):
    other = token.open(token.slots()[0])
    for one in (session, other):
        begin(token, one, pair[1])
    assert again(token, session) == CKR.OK
    assert sign(token, other) == CKR.USER_NOT_LOGGED_IN
    assert sign(token, session) == CKR.OK


def test_decryption(token, session):
    public, private = token.generate_pair(
        session,
        CKM.RSA_PKCS_KEY_PAIR_GEN,
        {**TOKEN, CKA.MODULUS_BITS: ulong(2048)},
        {**TOKEN, **ALWAYS},
    )
    secret = public_key(token, session, public).encrypt(DATA, padding.PKCS1v15())
    for pin, expected in ((None, CKR.USER_NOT_LOGGED_IN), (PIN, CKR.OK), (None, CKR.USER_NOT_LOGGED_IN)):
        token.C_DecryptInit(session, token.mechanism(CKM.RSA_PKCS), private)
        if pin is not None:
            assert again(token, session, pin) == CKR.OK
        out, length = token.ffi.new("CK_BYTE[512]"), token.ulong()
        length[0] = 512
        assert token.raw.C_Decrypt(session, secret, len(secret), out, length) == expected
        if expected == CKR.OK:
            assert bytes(token.ffi.buffer(out, length[0])) == DATA


def test_derivation_has_no_room_for_a_pin(token, session):
    public, private = ec_pair(token, session, private={**ALWAYS, CKA.DERIVE: TRUE})
    point = token.get(session, public, CKA.EC_POINT)
    memory = token.ffi.from_buffer(point)
    params = token.ffi.new("CK_ULONG[5]", [1, 0, 0, len(point), int(token.ffi.cast("CK_ULONG", memory))])
    mechanism = token.mechanism(CKM.ECDH1_DERIVE, bytes(token.ffi.buffer(params)))
    template = {CKA.CLASS: ulong(4), CKA.KEY_TYPE: ulong(0x10), CKA.VALUE_LEN: ulong(32), CKA.TOKEN: FALSE}
    rv = token.raw.C_DeriveKey(session, mechanism, private, *token.template(template), token.ulong())
    assert rv == CKR.USER_NOT_LOGGED_IN


def test_only_private_objects(token, session):
    with pytest.raises(Rv) as refused:
        ec_pair(token, session, private={**ALWAYS, CKA.PRIVATE: FALSE})
    assert refused.value == CKR.TEMPLATE_INCONSISTENT
    _, private = ec_pair(token, session)
    with pytest.raises(Rv) as refused:
        token.set(session, private, ALWAYS)
    assert refused.value == CKR.ATTRIBUTE_READ_ONLY


def test_the_so_and_other_users_have_nothing_to_confirm(token, session, pair):
    begin(token, session, pair[1])
    assert again(token, session, b"so-secret") == CKR.PIN_INCORRECT
    token.logout(session)
    token.login(session, SO, b"so-secret")
    assert again(token, session) == CKR.OPERATION_NOT_INITIALIZED
    token.logout(session)
    token.login(session, USER, PIN)
    assert sign(token, session) == CKR.OPERATION_NOT_INITIALIZED


def test_rsa(token, session):
    public, _ = rsa_pair(token, session)
    assert token.get(session, public, CKA.MODULUS_BITS) == ulong(2048)
    shown, private = token.generate_pair(
        session,
        CKM.RSA_PKCS_KEY_PAIR_GEN,
        {CKA.MODULUS_BITS: ulong(2048)},
        ALWAYS,
    )
    begin(token, session, private, CKM.SHA256_RSA_PKCS)
    token.C_LoginUser(session, CKU.CONTEXT_SPECIFIC, PIN, len(PIN), token.ffi.NULL, 0)
    made = signature(token, session)
    public_key(token, session, shown).verify(made, DATA, padding.PKCS1v15(), hashes.SHA256())


def test_a_token_without_a_pin_asks_for_none(bare, p11tpm_cli):
    bare.finalize()
    done = p11tpm_cli("init", "--no-pin", env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    bare.initialize()
    session = bare.open(bare.slots()[0])
    _, private = ec_pair(bare, session, private=ALWAYS)
    begin(bare, session, private)
    assert again(bare, session) == CKR.OPERATION_NOT_INITIALIZED
    assert sign(bare, session) == CKR.OK
