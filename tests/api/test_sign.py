"""Signatures: every one that is made here is verified by another implementation."""

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptoki import Rv
from keys import CURVES, HASHES, der_signature, ec_pair, public_key, rsa_pair, verify_ecdsa, verify_pkcs1, verify_pss

from p11tpm.attribute import FALSE, ulong
from p11tpm.ck import CKA, CKG, CKM, CKR

MESSAGE = b"a message, hashed by the mechanism or before it"
ECDSA = {"sha1": CKM.ECDSA_SHA1, "sha256": CKM.ECDSA_SHA256, "sha384": CKM.ECDSA_SHA384, "sha512": CKM.ECDSA_SHA512}
PKCS1 = {
    "sha1": CKM.SHA1_RSA_PKCS,
    "sha256": CKM.SHA256_RSA_PKCS,
    "sha384": CKM.SHA384_RSA_PKCS,
    "sha512": CKM.SHA512_RSA_PKCS,
}
PSS = {
    "sha1": (CKM.SHA1_RSA_PKCS_PSS, CKM.SHA_1, CKG.MGF1_SHA1),
    "sha256": (CKM.SHA256_RSA_PKCS_PSS, CKM.SHA256, CKG.MGF1_SHA256),
    "sha384": (CKM.SHA384_RSA_PKCS_PSS, CKM.SHA384, CKG.MGF1_SHA384),
    "sha512": (CKM.SHA512_RSA_PKCS_PSS, CKM.SHA512, CKG.MGF1_SHA512),
}


def parts_of(message):
    return [message[:1], b"", message[1:20], message[20:]]


@pytest.mark.parametrize("curve", CURVES)
def test_ecdsa(token, session, curve):
    public, private = ec_pair(token, session, curve)
    key = public_key(token, session, public)
    size = 2 * ((key.curve.key_size + 7) // 8)
    for digest, mechanism in ECDSA.items():
        for signature in (
            token.sign(session, private, mechanism, MESSAGE),
            token.sign_parts(session, private, mechanism, parts_of(MESSAGE)),
            token.sign(session, private, CKM.ECDSA, hashlib.new(digest, MESSAGE).digest()),
        ):
            assert size == len(signature)
            verify_ecdsa(key, signature, MESSAGE, digest)


def as_openssl_sees(data, curve):
    """Return the integer that ECDSA signs: the leftmost bits of the data (FIPS 186-5, clause 6.4.1)."""
    bits = curve.key_size
    number = int.from_bytes(data, "big")
    return number >> max(0, 8 * len(data) - bits)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("length", [1, 19, 20, 28, 31, 32, 33, 48, 63, 64])
def test_ecdsa_takes_a_digest_of_any_length(token, session, curve, length):
    public, private = ec_pair(token, session, curve)
    key = public_key(token, session, public)
    data = bytes(range(200, 200 + length)) if length < 50 else bytes(range(length))
    signature = token.sign(session, private, CKM.ECDSA, data)
    number = as_openssl_sees(data, key.curve)
    hash_, size = {"p256": ("sha256", 32), "p384": ("sha384", 48), "p521": ("sha512", 64)}[curve]
    key.verify(der_signature(signature), number.to_bytes(size, "big"), ec.ECDSA(utils.Prehashed(HASHES[hash_])))


@pytest.fixture(scope="module", params=[2048, 3072])
def bits(request):
    return request.param


def test_rsa(token, session, bits):
    public, private = rsa_pair(token, session, bits)
    key = public_key(token, session, public)
    assert bits == key.key_size
    for digest, mechanism in PKCS1.items():
        verify_pkcs1(key, token.sign(session, private, mechanism, MESSAGE), MESSAGE, digest)
        verify_pkcs1(key, token.sign_parts(session, private, mechanism, parts_of(MESSAGE)), MESSAGE, digest)
    for digest, (mechanism, hash_, mask) in PSS.items():
        hashed = hashlib.new(digest, MESSAGE).digest()
        for salt in (0, len(hashed), 20):
            parameter = struct.pack("<QQQ", hash_, mask, salt)
            verify_pss(key, token.sign(session, private, mechanism, MESSAGE, parameter), MESSAGE, digest, salt)
            signature = token.sign_parts(session, private, mechanism, parts_of(MESSAGE), parameter)
            verify_pss(key, signature, MESSAGE, digest, salt)
            verify_pss(key, token.sign(session, private, CKM.RSA_PKCS_PSS, hashed, parameter), MESSAGE, digest, salt)
    k = bits // 8
    for length in (0, 1, 36, 51, 83, k - 12, k - 11):
        data = bytes(range(1, 256))[:length] if length < 255 else bytes([length % 256]) * length
        signature = token.sign(session, private, CKM.RSA_PKCS, data)
        assert k == len(signature)
        assert data == key.recover_data_from_signature(signature, PKCS1v15(), None)
    with pytest.raises(Rv) as error:
        token.sign(session, private, CKM.RSA_PKCS, bytes(k - 10))
    assert error.value == CKR.DATA_LEN_RANGE


def test_a_length_query_and_a_small_buffer_keep_the_operation(token, session, proxy):
    public, private = ec_pair(token, session)
    token.sign(session, private, CKM.ECDSA, bytes(32))
    proxy.clear()
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), private)
    length = token.ulong()
    token.C_Sign(session, bytes(32), 32, token.ffi.NULL, length)
    assert length[0] == 64
    out = token.ffi.new("CK_BYTE[]", 64)
    length[0] = 63
    assert token.raw.C_Sign(session, bytes(32), 32, out, length) == CKR.BUFFER_TOO_SMALL
    assert length[0] == 64
    assert proxy.commands == []
    length[0] = 1000
    token.C_Sign(session, MESSAGE[:32], 32, out, length)
    assert length[0] == 64
    assert len(proxy.commands) == 1
    key = public_key(token, session, public)
    signature = bytes(token.ffi.buffer(out, 64))
    key.verify(der_signature(signature), MESSAGE[:32], ec.ECDSA(utils.Prehashed(HASHES["sha256"])))
    assert token.raw.C_Sign(session, bytes(32), 32, out, length) == CKR.OPERATION_NOT_INITIALIZED


def test_a_length_query_of_sign_final_keeps_the_parts(token, session):
    public, private = ec_pair(token, session)
    token.C_SignInit(session, token.mechanism(CKM.ECDSA_SHA256), private)
    token.C_SignUpdate(session, MESSAGE, len(MESSAGE))
    length, out = token.ulong(), token.ffi.new("CK_BYTE[]", 64)
    for _ in range(3):
        token.C_SignFinal(session, token.ffi.NULL, length)
    token.C_SignFinal(session, out, length)
    verify_ecdsa(public_key(token, session, public), bytes(token.ffi.buffer(out, 64)), MESSAGE, "sha256")


def test_the_mechanism_parameter_is_copied(token, session):
    public, private = rsa_pair(token, session)
    mechanism = token.mechanism(CKM.SHA256_RSA_PKCS_PSS)
    parameter = token.ffi.new("CK_BYTE[]", struct.pack("<QQQ", CKM.SHA256, CKG.MGF1_SHA256, 32))
    mechanism.pParameter, mechanism.ulParameterLen = parameter, 24
    token.C_SignInit(session, mechanism, private)
    token.ffi.buffer(parameter)[:] = b"\xff" * 25
    mechanism.mechanism = 0
    signature = token.bytes_of(lambda out, length: token.C_Sign(session, MESSAGE, len(MESSAGE), out, length))
    verify_pss(public_key(token, session, public), signature, MESSAGE, "sha256", 32)


def test_operations_of_two_sessions_do_not_meet(token, session):
    public, private = ec_pair(token, session)
    other = token.open(token.slots()[0])
    for handle in (session, other):
        token.C_SignInit(handle, token.mechanism(CKM.ECDSA_SHA256), private)
    token.C_SignUpdate(session, b"one", 3)
    token.C_SignUpdate(other, b"other", 5)
    key = public_key(token, session, public)
    for handle, message in ((session, b"one"), (other, b"other")):
        signature = token.bytes_of(lambda out, length, handle=handle: token.C_SignFinal(handle, out, length))
        verify_ecdsa(key, signature, message, "sha256")


def test_what_a_key_may_not_do(token, session):
    public, private = ec_pair(token, session)
    _, no_sign = ec_pair(token, session, private={CKA.SIGN: FALSE}, id_=b"2")
    _, only_sha256 = ec_pair(token, session, private={CKA.ALLOWED_MECHANISMS: ulong(CKM.ECDSA_SHA256)}, id_=b"3")
    for key, mechanism, rv in (
        (private, CKM.RSA_PKCS, CKR.KEY_TYPE_INCONSISTENT),
        (private, CKM.EC_KEY_PAIR_GEN, CKR.MECHANISM_INVALID),
        (private, 0x12345, CKR.MECHANISM_INVALID),
        (public, CKM.ECDSA, CKR.KEY_TYPE_INCONSISTENT),
        (no_sign, CKM.ECDSA, CKR.KEY_FUNCTION_NOT_PERMITTED),
        (only_sha256, CKM.ECDSA, CKR.MECHANISM_INVALID),
        (99, CKM.ECDSA, CKR.KEY_HANDLE_INVALID),
    ):
        assert token.raw.C_SignInit(session, token.mechanism(mechanism), key) == rv
    token.sign(session, only_sha256, CKM.ECDSA_SHA256, MESSAGE)
    token.set(session, no_sign, {CKA.SIGN: b"\x01"})
    token.sign(session, no_sign, CKM.ECDSA, bytes(32))


def test_parts_without_a_hash_are_gathered(token, session):
    """As a hash in parts, which is more than the standard asks for."""
    public, private = ec_pair(token, session)
    parts = [MESSAGE[:5], MESSAGE[5:20], b"", MESSAGE[20:32]]
    signature = token.sign_parts(session, private, CKM.ECDSA, parts)
    number = MESSAGE[:32].ljust(32, b"\0")
    public_key(token, session, public).verify(
        der_signature(signature), number, ec.ECDSA(utils.Prehashed(HASHES["sha256"]))
    )
    token.verify_parts(session, public, CKM.ECDSA, parts, signature)
    _, rsa = rsa_pair(token, session)
    assert token.sign_parts(session, rsa, CKM.RSA_PKCS, parts) == token.sign(session, rsa, CKM.RSA_PKCS, MESSAGE[:32])
    token.C_SignInit(session, token.mechanism(CKM.RSA_PKCS), rsa)
    token.C_SignUpdate(session, bytes(2000), 2000)
    assert token.raw.C_SignUpdate(session, bytes(49), 49) == CKR.DATA_LEN_RANGE
    assert token.raw.C_SignUpdate(session, b"x", 1) == CKR.OPERATION_NOT_INITIALIZED
    token.C_SignInit(session, token.mechanism(CKM.RSA_PKCS), rsa)
    token.C_SignUpdate(session, bytes(246), 246)
    assert (
        token.raw.C_SignFinal(session, token.ffi.new("CK_BYTE[256]"), token.ffi.new("CK_ULONG *", 256))
        == CKR.DATA_LEN_RANGE
    )


def test_a_null_mechanism_cancels(token, session):
    _, private = ec_pair(token, session)
    null = token.ffi.NULL
    assert token.raw.C_SignInit(session, null, private) == CKR.ARGUMENTS_BAD
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), private)
    assert token.raw.C_SignInit(session, token.mechanism(CKM.ECDSA), private) == CKR.OPERATION_ACTIVE
    token.C_SignInit(session, null, 0)
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), private)


def test_random(token, session):
    first, second = token.random(session, 100), token.random(session, 100)
    assert first != second
    assert len(first) == 100
    assert len(set(first)) > 30
    token.C_GenerateRandom(session, token.ffi.new("CK_BYTE[1]"), 0)
