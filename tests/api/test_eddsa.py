"""EdDSA, in software: keys, their forms, signatures, and who may use them. Another implementation is the referee."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptoki import USER, Rv
from keys import TOKEN, secret_key
from parameters import pointer, ulongs

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKF, CKK, CKM, CKO, CKR, CKU

PIN = b"123456"
DATA = b"what is signed"
PURE = ulongs(0, 0, 0)  # CK_EDDSA_PARAMS without prehashing and context
CURVES = {
    "Ed25519": (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519", 32, ed25519.Ed25519PrivateKey),
    "Ed448": (bytes.fromhex("06032b6571"), b"\x13\x0aedwards448", 57, ed448.Ed448PrivateKey),
}
VECTORS = [  # RFC 8032, clause 7.1 (test 2) and 7.4 (1 octet): curve, private key, message, signature
    (
        "Ed25519",
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "Ed448",
        "c4eab05d357007c632f3dbb48489924d552b08fe0c353a0d4a1f00acda2c463afbea67c5e8d2877c5e3bc397a659949ef8021e954e0a12274e",
        "03",
        (
            "26b8f91727bd62897af15e41eb43c377efb9c610d48f2335cb0bd0087810f4352541b143c4b981b7e18f62de8ccdf633"
            "fc1bf037ab7cd779805e0dbcc0aae1cbcee1afb2e027df36bc04dcecbf154336c19f0af7e0a6472905e799f1953d2a0f"
            "f3348ab21aa4adafd1d234441cf807c03a00"
        ),
    ),
]
both = pytest.mark.parametrize("curve", CURVES)


def refused(call, *args):
    with pytest.raises(Rv) as caught:
        call(*args)
    return caught.value


def kind(object_class, **more):
    named = {getattr(CKA, word): content for word, content in more.items()}
    return {CKA.CLASS: ulong(object_class), CKA.KEY_TYPE: ulong(CKK.EC_EDWARDS), **named}


def pair(run, session, curve, public=(), private=(), form=0):
    wanted = {CKA.EC_PARAMS: CURVES[curve][form], **dict(public)}
    return run.generate_pair(session, CKM.EC_EDWARDS_KEY_PAIR_GEN, wanted, dict(private))


def info(run, session, key):
    return load_der_public_key(run.get(session, key, CKA.PUBLIC_KEY_INFO))


@both
@pytest.mark.parametrize("form", [0, 1], ids=["oid", "name"])
@pytest.mark.parametrize("kept", [TRUE, FALSE])
def test_a_pair_signs_and_says_what_it_is(token, session, proxy, curve, form, kept):
    proxy.clear()
    stays = {CKA.TOKEN: kept}
    public, private = pair(token, session, curve, stays, stays, form)
    assert {command.name for command in proxy.commands} <= {
        "GetRandom",
        "StartAuthSession",
        "FlushContext",
        "ReadPublic",
    }
    for key in (public, private):
        assert token.get(session, key, CKA.KEY_TYPE) == ulong(CKK.EC_EDWARDS)
        assert token.get(session, key, CKA.EC_PARAMS) == CURVES[curve][form]
        assert token.get(session, key, CKA.LOCAL) == TRUE
        assert token.get(session, key, CKA.KEY_GEN_MECHANISM) == ulong(CKM.EC_EDWARDS_KEY_PAIR_GEN)
        signature = token.sign(session, private, CKM.EDDSA, DATA)
        info(token, session, key).verify(signature, DATA)
    raw = info(token, session, public).public_bytes_raw()
    assert token.get(session, public, CKA.EC_POINT) == bytes((4, len(raw))) + raw
    assert token.get(session, public, CKA.ID) == token.get(session, private, CKA.ID) != b""
    assert (token.get(session, private, CKA.SENSITIVE), token.get(session, private, CKA.NEVER_EXTRACTABLE)) == (
        TRUE,
        TRUE,
    )
    assert refused(token.get, session, private, CKA.VALUE) == CKR.ATTRIBUTE_SENSITIVE
    assert len(signature) == 2 * CURVES[curve][2]
    token.verify(session, public, CKM.EDDSA, DATA, signature)
    assert refused(token.verify, session, public, CKM.EDDSA, DATA + b"!", signature) == CKR.SIGNATURE_INVALID
    assert refused(token.verify, session, public, CKM.EDDSA, DATA, signature[:-1]) == CKR.SIGNATURE_LEN_RANGE


@pytest.mark.parametrize(("curve", "value", "message", "signature"), VECTORS, ids=CURVES)
def test_the_vectors_of_the_standard(token, session, curve, value, message, signature):
    params, _, _, private = CURVES[curve]
    value, message, signature = map(bytes.fromhex, (value, message, signature))
    key = token.create(session, kind(CKO.PRIVATE_KEY, EC_PARAMS=params, VALUE=value, TOKEN=TRUE))
    assert token.sign(session, key, CKM.EDDSA, message) == signature
    assert token.get(session, key, CKA.LOCAL) == FALSE
    point = private.from_private_bytes(value).public_key().public_bytes_raw()
    public = token.create(session, kind(CKO.PUBLIC_KEY, EC_PARAMS=params, EC_POINT=point))
    token.verify(session, public, CKM.EDDSA, message, signature)


@both
def test_the_forms_of_a_point(token, session, curve):
    params, word, size, private = CURVES[curve]
    key = private.generate()
    point, signature = key.public_key().public_bytes_raw(), key.sign(DATA)
    octets, bits = bytes((4, size)) + point, bytes((3, size + 1, 0)) + point
    for form in (point, octets, bits):
        for named in (params, word):
            public = token.create(session, kind(CKO.PUBLIC_KEY, EC_PARAMS=named, EC_POINT=form))
            assert token.get(session, public, CKA.EC_POINT) == octets
            assert info(token, session, public).public_bytes_raw() == point
            token.verify(session, public, CKM.EDDSA, DATA, signature)
            token.verify_parts(session, public, CKM.EDDSA, (DATA[:3], DATA[3:]), signature)
    for form in (b"", point[:-1], octets + b"\0", b"\x04" + point):
        wrong = kind(CKO.PUBLIC_KEY, EC_PARAMS=params, EC_POINT=form)
        assert refused(token.create, session, wrong) == CKR.ATTRIBUTE_VALUE_INVALID


def test_what_makes_no_key(token, session):
    params, value = CURVES["Ed25519"][0], bytes(32)
    p256 = bytes.fromhex("06082a8648ce3d030107")
    assert refused(token.create, session, kind(CKO.PRIVATE_KEY, VALUE=value)) == CKR.TEMPLATE_INCOMPLETE
    assert refused(token.create, session, kind(CKO.PRIVATE_KEY, EC_PARAMS=params)) == CKR.TEMPLATE_INCOMPLETE
    short = kind(CKO.PRIVATE_KEY, EC_PARAMS=params, VALUE=bytes(31))
    assert refused(token.create, session, short) == CKR.ATTRIBUTE_VALUE_INVALID
    for object_class, number in ((CKO.PRIVATE_KEY, "VALUE"), (CKO.PUBLIC_KEY, "EC_POINT")):
        other = kind(object_class, EC_PARAMS=p256, **{number: value})
        assert refused(token.create, session, other) == CKR.CURVE_NOT_SUPPORTED
    with pytest.raises(Rv) as caught:
        token.generate_pair(session, CKM.EC_EDWARDS_KEY_PAIR_GEN, {CKA.EC_PARAMS: p256}, {})
    assert caught.value == CKR.CURVE_NOT_SUPPORTED
    with pytest.raises(Rv) as caught:
        token.generate_pair(session, CKM.EC_EDWARDS_KEY_PAIR_GEN, {}, {})
    assert caught.value == CKR.TEMPLATE_INCOMPLETE


def test_parameters(token, session):
    """Ed448 may have one that asks for nothing; with one, Ed25519 would be Ed25519ctx or Ed25519ph."""
    _, private = pair(token, session, "Ed448")
    assert token.sign(session, private, CKM.EDDSA, DATA, PURE) == token.sign(session, private, CKM.EDDSA, DATA)
    context = ulongs(0, 3, pointer(b"abc"))
    for wrong in (ulongs(1, 0, 0), context, ulongs(0, 3, 0), PURE[:-8], PURE + bytes(8)):
        assert refused(token.sign, session, private, CKM.EDDSA, DATA, wrong) == CKR.MECHANISM_PARAM_INVALID
    public, private = pair(token, session, "Ed25519")
    for wrong in (PURE, ulongs(1, 0, 0), context):
        assert refused(token.sign, session, private, CKM.EDDSA, DATA, wrong) == CKR.MECHANISM_PARAM_INVALID
        assert refused(token.verify, session, public, CKM.EDDSA, DATA, bytes(64), wrong) == CKR.MECHANISM_PARAM_INVALID


def test_a_long_message_in_parts(token, session):
    public, private = pair(token, session, "Ed25519")
    parts = [bytes((number,)) * 4096 for number in range(8)]
    signature = token.sign_parts(session, private, CKM.EDDSA, parts)
    assert signature == token.sign(session, private, CKM.EDDSA, b"".join(parts))
    token.verify_parts(session, public, CKM.EDDSA, parts, signature)


def test_it_is_software_and_says_so(token, session):
    description = token.ffi.new("CK_MECHANISM_INFO *")
    for mechanism, does in ((CKM.EDDSA, CKF.SIGN | CKF.VERIFY), (CKM.EC_EDWARDS_KEY_PAIR_GEN, CKF.GENERATE_KEY_PAIR)):
        token.C_GetMechanismInfo(token.slots()[0], mechanism, description)
        assert description.flags == does | CKF.EC_F_P | CKF.EC_NAMEDCURVE | CKF.EC_CURVENAME
        assert (description.ulMinKeySize, description.ulMaxKeySize) == (255, 448)
    _, private = pair(token, session, "Ed25519")
    for mechanism in (CKM.ECDSA, CKM.ECDH1_DERIVE, CKM.RSA_PKCS):
        assert refused(token.sign, session, private, mechanism, bytes(32)) in {
            CKR.KEY_TYPE_INCONSISTENT,
            CKR.MECHANISM_INVALID,
        }


def test_a_private_key_is_encrypted_in_the_store_and_used_after_the_next_login(token, session):
    value = bytes(range(7, 39))
    template = kind(CKO.PRIVATE_KEY, EC_PARAMS=CURVES["Ed25519"][0], VALUE=value, LABEL=b"kept", TOKEN=TRUE)
    token.create(session, template)
    signature = ed25519.Ed25519PrivateKey.from_private_bytes(value).sign(DATA)
    token.finalize()
    assert not any(value in path.read_bytes() for path in Path(os.environ["P11TPM_STORE"]).iterdir() if path.is_file())
    token.initialize()
    session = token.open(token.slots()[0])
    assert token.find(session, {CKA.LABEL: b"kept"}) == []
    token.login(session, USER, PIN)
    (key,) = token.find(session, {CKA.LABEL: b"kept"})
    assert token.sign(session, key, CKM.EDDSA, DATA) == signature
    token.logout(session)
    assert refused(token.sign, session, key, CKM.EDDSA, DATA) in {CKR.KEY_HANDLE_INVALID, CKR.OBJECT_HANDLE_INVALID}


def test_the_pin_before_each_use(token, session):
    _, private = pair(token, session, "Ed25519", TOKEN, {**TOKEN, CKA.ALWAYS_AUTHENTICATE: TRUE})
    assert refused(token.sign, session, private, CKM.EDDSA, DATA) == CKR.USER_NOT_LOGGED_IN
    for _ in range(2):
        token.C_SignInit(session, token.mechanism(CKM.EDDSA), private)
        token.login(session, CKU.CONTEXT_SPECIFIC, PIN)
        token.bytes_of(lambda out, length: token.C_Sign(session, DATA, len(DATA), out, length))
    assert refused(token.sign, session, private, CKM.EDDSA, DATA) == CKR.USER_NOT_LOGGED_IN


@both
def test_it_leaves_and_comes_back(token, session, curve):
    public, private = pair(token, session, curve, (), {CKA.EXTRACTABLE: TRUE, CKA.SENSITIVE: FALSE})
    value = token.get(session, private, CKA.VALUE)
    assert CURVES[curve][3].from_private_bytes(value).public_key() == info(token, session, public)
    by = secret_key(token, session, bytes(32), CKK.AES)
    wrapped = token.wrap(session, by, private, CKM.AES_CBC_PAD, bytes(16))
    template = kind(CKO.PRIVATE_KEY, SENSITIVE=FALSE)
    again = token.unwrap(session, by, CKM.AES_CBC_PAD, wrapped, template, bytes(16))
    assert token.get(session, again, CKA.VALUE) == value
    assert token.get(session, again, CKA.EC_PARAMS) == CURVES[curve][0]
    token.verify(session, public, CKM.EDDSA, DATA, token.sign(session, again, CKM.EDDSA, DATA))
    other = {**template, CKA.KEY_TYPE: ulong(CKK.EC)}
    assert refused(token.unwrap, session, by, CKM.AES_CBC_PAD, wrapped, other, bytes(16)) == CKR.WRAPPED_KEY_INVALID
    stays = pair(token, session, curve)[1]
    assert refused(token.wrap, session, by, stays, CKM.AES_CBC_PAD, bytes(16)) == CKR.KEY_UNEXTRACTABLE


def test_a_copy_signs(token, session):
    public, private = pair(token, session, "Ed25519")
    handle = token.ulong()
    token.C_CopyObject(session, private, *token.template({CKA.TOKEN: TRUE, CKA.LABEL: b"copy"}), handle)
    token.verify(session, public, CKM.EDDSA, DATA, token.sign(session, handle[0], CKM.EDDSA, DATA))
