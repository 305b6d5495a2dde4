"""The choice of mechanisms in the configuration: for the list, for their description and for every function."""

import os
from pathlib import Path

import pytest
from cryptoki import USER
from keys import CURVES, ec_pair

from p11tpm.attribute import ulong
from p11tpm.ck import CKA, CKM, CKR

PIN = b"123456"


def choose(token, value):
    """Begin a new run with a choice of mechanisms; give its session."""
    token.finalize()
    Path(os.environ["P11TPM_CONF"]).write_text(f"log = off\nmechanisms = {value}\n")
    token.initialize()
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    return session


def listed(token):
    slot, count = token.slots()[0], token.ulong()
    token.C_GetMechanismList(slot, token.ffi.NULL, count)
    types = token.ffi.new("CK_ULONG[]", count[0])
    token.C_GetMechanismList(slot, types, count)
    return set(types)


def info(token, type_):
    return token.raw.C_GetMechanismInfo(token.slots()[0], type_, token.ffi.new("CK_MECHANISM_INFO *"))


@pytest.fixture
def key(token, session):
    return token.get(session, ec_pair(token, session)[1], CKA.UNIQUE_ID)


def usable(token, session, key, type_):
    """Return what C_SignInit says of a mechanism and a key."""
    (found,) = token.find(session, {CKA.UNIQUE_ID: key})
    rv = token.raw.C_SignInit(session, token.mechanism(type_), found)
    token.raw.C_SignInit(session, token.ffi.NULL, found)
    return rv


def test_only_those_that_are_named(token, key):
    everything = listed(token)
    session = choose(token, "CKM_ECDSA CKM_SHA256, CKM_RSA_PKCS")
    assert listed(token) == {CKM.ECDSA, CKM.SHA256, CKM.RSA_PKCS} < everything
    assert info(token, CKM.ECDSA) == CKR.OK
    assert info(token, CKM.ECDSA_SHA256) == CKR.MECHANISM_INVALID
    assert usable(token, session, key, CKM.ECDSA) == CKR.OK
    assert usable(token, session, key, CKM.ECDSA_SHA256) == CKR.MECHANISM_INVALID


def test_all_but_those_that_are_named(token, key):
    everything = listed(token)
    session = choose(token, "-CKM_ECDSA !CKM_EC_KEY_PAIR_GEN -CKM_SHA_1 -CKM_AES_ECB")
    assert listed(token) == everything - {CKM.ECDSA, CKM.EC_KEY_PAIR_GEN, CKM.SHA_1, CKM.AES_ECB}
    assert usable(token, session, key, CKM.ECDSA) == CKR.MECHANISM_INVALID
    assert usable(token, session, key, CKM.ECDSA_SHA1) == CKR.OK, "a hash within a mechanism is chosen with it"
    assert choose(token, "*")
    assert listed(token) == everything


# every function that begins something with a mechanism, and its arguments between mechanism and result
FUNCTIONS = {
    "C_DigestInit": 0,
    "C_EncryptInit": 1,
    "C_DecryptInit": 1,
    "C_SignInit": 1,
    "C_SignRecoverInit": 1,
    "C_VerifyInit": 1,
    "C_VerifyRecoverInit": 1,
}


def test_every_function_keeps_to_the_choice(token, key):
    session = choose(token, "CKM_AES_KEY_GEN")
    (private,) = token.find(session, {CKA.UNIQUE_ID: key})
    (public,) = token.find(session, {CKA.EC_PARAMS: CURVES["p256"][0], CKA.CLASS: ulong(2)})
    refused = CKR.MECHANISM_INVALID
    ecdsa, out, none = token.mechanism(CKM.ECDSA), token.ulong(), token.template({})
    for function, keys in FUNCTIONS.items():
        handle = [public if "Verify" in function or "Encrypt" in function else private] * keys
        mechanism = token.mechanism(CKM.SHA256) if function == "C_DigestInit" else ecdsa
        assert getattr(token.raw, function)(session, mechanism, *handle) == refused, function
    pair = token.mechanism(CKM.EC_KEY_PAIR_GEN)
    wanted = token.template({CKA.EC_PARAMS: CURVES["p256"][0]})
    assert token.raw.C_GenerateKeyPair(session, pair, *wanted, *none, out, token.ulong()) == refused
    secret = token.mechanism(CKM.GENERIC_SECRET_KEY_GEN)
    length = token.template({CKA.VALUE_LEN: ulong(16)})
    assert token.raw.C_GenerateKey(session, secret, *length, out) == refused
    aes = token.ulong()
    token.C_GenerateKey(session, token.mechanism(CKM.AES_KEY_GEN), *length, aes)
    wrap = token.mechanism(CKM.AES_KEY_WRAP)
    assert token.raw.C_WrapKey(session, wrap, aes[0], aes[0], token.ffi.NULL, out) == refused
    template = token.template({CKA.CLASS: ulong(4), CKA.KEY_TYPE: ulong(0x1F)})
    assert token.raw.C_UnwrapKey(session, wrap, aes[0], bytes(24), 24, *template, out) == refused
    derive = token.mechanism(CKM.SHA256_KEY_DERIVATION)
    assert token.raw.C_DeriveKey(session, derive, aes[0], *template, out) == refused


@pytest.mark.parametrize("value", ["CKM_NONSENSE", "ECDSA", "CKM_ECDSA -CKM_SHA256", "-", "CKM_ECDSA CKM_"])
def test_what_can_not_be_used_is_said(token, value):
    token.finalize()
    Path(os.environ["P11TPM_CONF"]).write_text(f"log = off\nmechanisms = {value}\n")
    assert token.raw.C_Initialize(token.ffi.NULL) == CKR.GENERAL_ERROR
    Path(os.environ["P11TPM_CONF"]).write_text("log = off\n")
    token.initialize()
