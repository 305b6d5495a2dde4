"""Sessions: C_SessionCancel, C_LoginUser, saved operations, C_CloseAllSessions."""

import pytest
from cryptoki import RO, SO, USER, Rv
from keys import ec_pair, rsa_pair

from p11tpm.attribute import FALSE, ulong
from p11tpm.ck import CKA, CKF, CKK, CKM, CKO, CKR, CKS, CKU

PIN = b"123456"


@pytest.fixture
def keys(token, session):
    """A secret key, and the two halves of an RSA pair."""
    aes = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.AES), CKA.VALUE: bytes(16), CKA.TOKEN: FALSE}
    return {
        "secret": token.create(session, aes),
        **dict(zip(("public", "private"), rsa_pair(token, session), strict=True)),
    }


# flag, its Init, mechanism and key, a call that needs the operation
OPERATIONS = {
    CKF.FIND_OBJECTS: ("C_FindObjectsInit", None, None),
    CKF.DIGEST: ("C_DigestInit", CKM.SHA256, None),
    CKF.ENCRYPT: ("C_EncryptInit", CKM.AES_ECB, "secret"),
    CKF.DECRYPT: ("C_DecryptInit", CKM.AES_ECB, "secret"),
    CKF.SIGN: ("C_SignInit", CKM.SHA256_RSA_PKCS, "private"),
    CKF.SIGN_RECOVER: ("C_SignRecoverInit", CKM.RSA_PKCS, "private"),
    CKF.VERIFY: ("C_VerifyInit", CKM.SHA256_RSA_PKCS, "public"),
    CKF.VERIFY_RECOVER: ("C_VerifyRecoverInit", CKM.RSA_PKCS, "public"),
}


def begin(token, session, keys, flag):
    function, mechanism, key = OPERATIONS[flag]
    if mechanism is None:
        return token.raw.C_FindObjectsInit(session, token.ffi.NULL, 0)
    arguments = (token.mechanism(mechanism), *([keys[key]] if key else []))
    return getattr(token.raw, function)(session, *arguments)


def test_operations_end_by_their_flags(token, session, keys):
    for flag in OPERATIONS:
        assert begin(token, session, keys, flag) == CKR.OK
    for flag in OPERATIONS:
        token.C_SessionCancel(session, flag)
        for other in OPERATIONS:
            assert begin(token, session, keys, other) == (CKR.OK if other == flag else CKR.OPERATION_ACTIVE)
    token.C_SessionCancel(session, sum(OPERATIONS))
    for flag in OPERATIONS:
        assert begin(token, session, keys, flag) == CKR.OK


def test_flags_of_what_is_not_active_are_passed_over(token, session, keys):
    begin(token, session, keys, CKF.SIGN)
    messages = CKF.MESSAGE_ENCRYPT | CKF.MESSAGE_DECRYPT | CKF.MESSAGE_SIGN | CKF.MESSAGE_VERIFY
    for flags in (0, messages, CKF.DERIVE, 1 << 63, CKF.VERIFY):
        assert token.raw.C_SessionCancel(session, flags) == CKR.OK
    assert begin(token, session, keys, CKF.SIGN) == CKR.OPERATION_ACTIVE
    assert token.raw.C_SessionCancel(99, CKF.SIGN) == CKR.SESSION_HANDLE_INVALID


def test_operations_of_other_sessions_go_on(token, session, keys):
    other = token.open(token.slots()[0])
    begin(token, other, keys, CKF.DIGEST)
    token.C_SessionCancel(session, CKF.DIGEST)
    assert begin(token, other, keys, CKF.DIGEST) == CKR.OPERATION_ACTIVE


def test_operations_are_not_saved(token, session, keys):
    length = token.ulong()
    assert token.raw.C_GetOperationState(session, token.ffi.NULL, token.ffi.NULL) == CKR.ARGUMENTS_BAD
    assert token.raw.C_GetOperationState(session, token.ffi.NULL, length) == CKR.OPERATION_NOT_INITIALIZED
    begin(token, session, keys, CKF.FIND_OBJECTS)
    assert token.raw.C_GetOperationState(session, token.ffi.NULL, length) == CKR.OPERATION_NOT_INITIALIZED
    begin(token, session, keys, CKF.DIGEST)
    assert token.raw.C_GetOperationState(session, token.ffi.NULL, length) == CKR.STATE_UNSAVEABLE
    assert begin(token, session, keys, CKF.DIGEST) == CKR.OPERATION_ACTIVE
    assert token.raw.C_SetOperationState(session, b"state", 5, 0, 0) == CKR.SAVED_STATE_INVALID
    assert token.raw.C_SetOperationState(session, token.ffi.NULL, 0, 0, 0) == CKR.ARGUMENTS_BAD
    assert token.raw.C_SetOperationState(99, b"state", 5, 0, 0) == CKR.SESSION_HANDLE_INVALID


def login_user(token, session, user, pin, name=b""):
    return token.raw.C_LoginUser(session, user, pin, len(pin), name or token.ffi.NULL, len(name))


def test_login_with_a_user_name(token):
    session = token.open(token.slots()[0])
    assert login_user(token, session, USER, PIN, b"bob") == CKR.ARGUMENTS_BAD
    assert token.state(session) == CKS.RW_PUBLIC_SESSION
    assert token.raw.C_LoginUser(session, USER, PIN, len(PIN), token.ffi.NULL, 3) == CKR.ARGUMENTS_BAD
    assert login_user(token, session, USER, b"wrong!") == CKR.PIN_INCORRECT
    assert login_user(token, session, 7, PIN) == CKR.USER_TYPE_INVALID
    assert login_user(token, session, CKU.CONTEXT_SPECIFIC, PIN) == CKR.OPERATION_NOT_INITIALIZED
    assert login_user(token, session, USER, PIN) == CKR.OK
    assert login_user(token, session, USER, PIN) == CKR.USER_ALREADY_LOGGED_IN
    assert token.state(session) == CKS.RW_USER_FUNCTIONS
    token.logout(session)
    assert login_user(token, session, SO, b"so-secret") == CKR.OK
    assert token.state(session) == CKS.RW_SO_FUNCTIONS
    assert login_user(token, 99, USER, PIN) == CKR.SESSION_HANDLE_INVALID


def test_all_sessions_are_closed(token, session):
    slot = token.slots()[0]
    others = [token.open(slot, RO) for _ in range(3)]
    _, private = ec_pair(token, session, private={CKA.TOKEN: FALSE}, public={CKA.TOKEN: FALSE})
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), private)
    assert token.raw.C_CloseAllSessions(slot + 9) == CKR.SLOT_ID_INVALID
    token.C_CloseAllSessions(slot)
    for one in (session, *others):
        assert token.raw.C_CloseSession(one) == CKR.SESSION_HANDLE_INVALID
    fresh = token.open(slot)
    assert token.state(fresh) == CKS.RW_PUBLIC_SESSION, "the login ends with the last session"
    token.login(fresh, USER, PIN)
    assert token.find(fresh, {}) == []
    with pytest.raises(Rv):
        token.get(fresh, private, CKA.LABEL)
    assert token.token_info(slot).ulSessionCount == 1
