"""Malformed calls: each gets the standard's code and leaves the session usable."""

# ruff: noqa: ARG005 - one row, one call

import struct

import pytest
from cryptoki import RO, RW
from keys import ec_pair, public_key, rsa_pair, verify_ecdsa

from p11tpm.attribute import ulong
from p11tpm.ck import CKA, CKG, CKM, CKO, CKR

HUGE = 0xFFFFFFFFFFFFFFFF
PSS = (CKM.SHA256, CKG.MGF1_SHA256, 32)


def attribute(run, type_, length, value=b"x" * 64):
    """A template of one attribute whose length may lie."""
    array = run.ffi.new("CK_ATTRIBUTE[1]")
    run.memory = run.ffi.new("CK_BYTE[]", value) if value is not None else run.ffi.NULL
    array[0].type, array[0].pValue, array[0].ulValueLen = type_, run.memory, length
    return array


def sign(run, session, key, *call):
    run.C_SignInit(session, run.mechanism(CKM.ECDSA), key)
    return run.raw.C_Sign(session, *call)


def sign_init(run, session, key, type_, parameter=b"", length=None):
    mechanism = run.mechanism(type_, parameter)
    if length is not None:
        mechanism.ulParameterLen = length
    return run.raw.C_SignInit(session, mechanism, key)


CALLS = {
    # sessions and handles that do not exist
    "session 0": (
        lambda r, s, k, n: r.raw.C_GetSessionInfo(0, r.ffi.new("CK_SESSION_INFO *")),
        CKR.SESSION_HANDLE_INVALID,
    ),
    "session huge": (lambda r, s, k, n: r.raw.C_CloseSession(HUGE), CKR.SESSION_HANDLE_INVALID),
    "slot huge": (lambda r, s, k, n: r.raw.C_GetSlotInfo(HUGE, r.ffi.new("CK_SLOT_INFO *")), CKR.SLOT_ID_INVALID),
    "slot in open": (lambda r, s, k, n: r.raw.C_OpenSession(77, RW, n, n, r.ulong()), CKR.SLOT_ID_INVALID),
    "object huge": (lambda r, s, k, n: r.raw.C_DestroyObject(s, HUGE), CKR.OBJECT_HANDLE_INVALID),
    "key 0": (lambda r, s, k, n: sign_init(r, s, 0, CKM.ECDSA), CKR.KEY_HANDLE_INVALID),
    # NULL pointers
    "info NULL": (lambda r, s, k, n: r.raw.C_GetInfo(n), CKR.ARGUMENTS_BAD),
    "slot count NULL": (lambda r, s, k, n: r.raw.C_GetSlotList(1, n, n), CKR.ARGUMENTS_BAD),
    "slot info NULL": (lambda r, s, k, n: r.raw.C_GetSlotInfo(r.slots()[0], n), CKR.ARGUMENTS_BAD),
    "token info NULL": (lambda r, s, k, n: r.raw.C_GetTokenInfo(r.slots()[0], n), CKR.ARGUMENTS_BAD),
    "mechanism count NULL": (lambda r, s, k, n: r.raw.C_GetMechanismList(r.slots()[0], n, n), CKR.ARGUMENTS_BAD),
    "session handle NULL": (lambda r, s, k, n: r.raw.C_OpenSession(r.slots()[0], RW, n, n, n), CKR.ARGUMENTS_BAD),
    "session info NULL": (lambda r, s, k, n: r.raw.C_GetSessionInfo(s, n), CKR.ARGUMENTS_BAD),
    "PIN NULL": (lambda r, s, k, n: r.raw.C_SetPIN(s, n, 4, n, 4), CKR.ARGUMENTS_BAD),
    "template NULL": (lambda r, s, k, n: r.raw.C_FindObjectsInit(s, n, 1), CKR.ARGUMENTS_BAD),
    "values NULL": (lambda r, s, k, n: r.raw.C_GetAttributeValue(s, k, n, 3), CKR.ARGUMENTS_BAD),
    "mechanism NULL": (lambda r, s, k, n: r.raw.C_SignInit(s, n, k), CKR.ARGUMENTS_BAD),
    "data NULL": (
        lambda r, s, k, n: sign(r, s, k, n, 32, r.ffi.new("CK_BYTE[64]"), r.ffi.new("CK_ULONG *", 64)),
        CKR.ARGUMENTS_BAD,
    ),
    "length NULL": (lambda r, s, k, n: sign(r, s, k, b"x" * 32, 32, n, n), CKR.ARGUMENTS_BAD),
    "random NULL": (lambda r, s, k, n: r.raw.C_GenerateRandom(s, n, 8), CKR.ARGUMENTS_BAD),
    "pair handles NULL": (
        lambda r, s, k, n: r.raw.C_GenerateKeyPair(s, r.mechanism(CKM.EC_KEY_PAIR_GEN), n, 0, n, 0, n, n),
        CKR.ARGUMENTS_BAD,
    ),
    # absurd lengths
    "data huge": (
        lambda r, s, k, n: sign(r, s, k, b"x", HUGE, r.ffi.new("CK_BYTE[64]"), r.ffi.new("CK_ULONG *", 64)),
        CKR.ARGUMENTS_BAD,
    ),
    "random huge": (lambda r, s, k, n: r.raw.C_GenerateRandom(s, r.ffi.new("CK_BYTE[1]"), HUGE), CKR.ARGUMENTS_BAD),
    "template huge": (lambda r, s, k, n: r.raw.C_FindObjectsInit(s, attribute(r, CKA.ID, 1), HUGE), CKR.ARGUMENTS_BAD),
    "value huge": (
        lambda r, s, k, n: r.raw.C_FindObjectsInit(s, attribute(r, CKA.ID, HUGE), 1),
        CKR.ATTRIBUTE_VALUE_INVALID,
    ),
    "value NULL": (
        lambda r, s, k, n: r.raw.C_SetAttributeValue(s, k, attribute(r, CKA.LABEL, 3, None), 1),
        CKR.ATTRIBUTE_VALUE_INVALID,
    ),
    "parameter huge": (
        lambda r, s, k, n: sign_init(r, s, k, CKM.RSA_PKCS_PSS, b"x", HUGE),
        CKR.MECHANISM_PARAM_INVALID,
    ),
    "PIN huge": (lambda r, s, k, n: r.raw.C_SetPIN(s, b"1234", HUGE, b"12345", 5), CKR.PIN_LEN_RANGE),
    # wrong templates and parameters
    "type twice": (
        lambda r, s, k, n: r.raw.C_FindObjectsInit(s, *r.template([(CKA.ID, b"1"), (CKA.ID, b"2")])),
        CKR.ATTRIBUTE_VALUE_INVALID,
    ),
    "no class": (
        lambda r, s, k, n: r.raw.C_CreateObject(s, *r.template({CKA.LABEL: b"x"}), r.ulong()),
        CKR.TEMPLATE_INCOMPLETE,
    ),
    "class short": (
        lambda r, s, k, n: r.raw.C_CreateObject(s, *r.template({CKA.CLASS: b"\x01"}), r.ulong()),
        CKR.ATTRIBUTE_VALUE_INVALID,
    ),
    "class unknown": (
        lambda r, s, k, n: r.raw.C_CreateObject(s, *r.template({CKA.CLASS: ulong(99)}), r.ulong()),
        CKR.ATTRIBUTE_VALUE_INVALID,
    ),
    "bool of 4 bytes": (
        lambda r, s, k, n: r.raw.C_CreateObject(
            s, *r.template({CKA.CLASS: ulong(CKO.DATA), CKA.TOKEN: b"\x01\0\0\0"}), r.ulong()
        ),
        CKR.ATTRIBUTE_VALUE_INVALID,
    ),
    "no serial flag": (
        lambda r, s, k, n: r.raw.C_OpenSession(r.slots()[0], 2, n, n, r.ulong()),
        CKR.SESSION_PARALLEL_NOT_SUPPORTED,
    ),
    "reserved in finalize": (lambda r, s, k, n: r.raw.C_Finalize(r.ulong()), CKR.ARGUMENTS_BAD),
    "initialize twice": (lambda r, s, k, n: r.raw.C_Initialize(n), CKR.CRYPTOKI_ALREADY_INITIALIZED),
    "empty digest": (
        lambda r, s, k, n: sign(r, s, k, n, 0, r.ffi.new("CK_BYTE[64]"), r.ffi.new("CK_ULONG *", 64)),
        CKR.DATA_LEN_RANGE,
    ),
    "not built": (lambda r, s, k, n: r.raw.C_MessageEncryptFinal(s), CKR.FUNCTION_NOT_SUPPORTED),
}


@pytest.fixture
def key(token, session):
    return ec_pair(token, session)


@pytest.mark.parametrize("call", CALLS)
def test_malformed_call(token, session, key, call):
    public, private = key
    make, rv = CALLS[call]
    assert make(token, session, private, token.ffi.NULL) == rv
    signature = token.sign(session, private, CKM.ECDSA_SHA256, b"still usable")
    verify_ecdsa(public_key(token, session, public), signature, b"still usable", "sha256")
    assert len(token.find(session, {})) == 2


@pytest.mark.parametrize(
    "parameter",
    [
        b"",
        b"x",
        struct.pack("<QQQ", *PSS)[:23],
        struct.pack("<QQQ", *PSS) + b"x",
        struct.pack("<QQQ", CKM.SHA_1, CKG.MGF1_SHA256, 32),
        struct.pack("<QQQ", 0x999, CKG.MGF1_SHA256, 32),
        struct.pack("<QQQ", CKM.SHA256, 0x999, 32),
    ],
)
def test_pss_parameters_that_are_refused(token, session, parameter):
    _, private = rsa_pair(token, session)
    assert sign_init(token, session, private, CKM.SHA256_RSA_PKCS_PSS, parameter) == CKR.MECHANISM_PARAM_INVALID


def test_a_salt_that_does_not_fit(token, session):
    """C_Sign and C_Verify have no answer for it (clauses 5.13.2 and 5.15.2), so that it is refused before."""
    public, private = rsa_pair(token, session)
    for salt in (223, HUGE):
        parameter = struct.pack("<QQQ", CKM.SHA256, CKG.MGF1_SHA256, salt)
        assert sign_init(token, session, private, CKM.SHA256_RSA_PKCS_PSS, parameter) == CKR.MECHANISM_PARAM_INVALID
        mechanism = token.mechanism(CKM.SHA256_RSA_PKCS_PSS, parameter)
        assert token.raw.C_VerifyInit(session, mechanism, public) == CKR.MECHANISM_PARAM_INVALID


def test_thousands_of_sessions(token, session):
    slot = token.slots()[0]
    handles = [token.open(slot, RW if number % 2 else RO) for number in range(4096)]
    _, private = ec_pair(token, session)
    assert len(token.sign(handles[-1], private, CKM.ECDSA, bytes(32))) == 64
    info = token.token_info(slot)
    assert (info.ulMaxSessionCount, info.ulMaxRwSessionCount) == (0, 0)
    assert (info.ulSessionCount, info.ulRwSessionCount) == (4097, 2049)
    token.C_CloseAllSessions(slot)
    assert token.raw.C_CloseSession(handles[0]) == CKR.SESSION_HANDLE_INVALID
