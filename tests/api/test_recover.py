"""Raw RSA, and signatures from which the data are recovered: against integers, and against cryptography."""

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptoki import RO, Rv
from keys import as_bytes, ec_pair, public_key, rsa_object, rsa_pair

from p11tpm.attribute import FALSE
from p11tpm.ck import CKA, CKM, CKR
from p11tpm.crypto.padding import recovered

SIZE = 256  # bytes of the modulus
MECHANISMS = (CKM.RSA_PKCS, CKM.RSA_X_509)


def sign_recover(run, session, key, mechanism, data):
    run.C_SignRecoverInit(session, run.mechanism(mechanism), key)
    return run.bytes_of(lambda out, length: run.C_SignRecover(session, data, len(data), out, length))


def recover(run, session, key, mechanism, signature):
    run.C_VerifyRecoverInit(session, run.mechanism(mechanism), key)
    return run.bytes_of(lambda out, length: run.C_VerifyRecover(session, signature, len(signature), out, length))


@pytest.fixture
def pair(token, session):
    return rsa_pair(token, session)


def test_pkcs1(token, session, pair, proxy):
    public, private = pair
    key = public_key(token, session, public)
    for data in (b"", b"x", b"\0\0x\0", bytes(range(1, 36)), b"\xff" * (SIZE - 11)):
        signature = sign_recover(token, session, private, CKM.RSA_PKCS, data)
        assert key.recover_data_from_signature(signature, PKCS1v15(), None) == data
        proxy.clear()
        assert recover(token, session, public, CKM.RSA_PKCS, signature) == data
        token.verify(session, public, CKM.RSA_PKCS, data, signature)
        assert proxy.commands == []
    with pytest.raises(Rv) as error:
        sign_recover(token, session, private, CKM.RSA_PKCS, bytes(SIZE - 10))
    assert error.value == CKR.DATA_LEN_RANGE


def test_raw(token, session, pair):
    public, private = pair
    numbers = public_key(token, session, public).public_numbers()
    for data in (b"", b"x", b"\0" * 10 + b"y", b"\x7f" * SIZE, as_bytes(numbers.n - 1)):
        for signature in (
            token.sign(session, private, CKM.RSA_X_509, data),
            sign_recover(token, session, private, CKM.RSA_X_509, data),
        ):
            assert len(signature) == SIZE
            number = int.from_bytes(signature, "big")
            assert pow(number, numbers.e, numbers.n) == int.from_bytes(data, "big")
            assert recover(token, session, public, CKM.RSA_X_509, signature) == data.rjust(SIZE, b"\0")
            token.verify(session, public, CKM.RSA_X_509, data, signature)
    for data, rv in ((bytes(SIZE + 1), CKR.DATA_LEN_RANGE), (as_bytes(numbers.n), CKR.DATA_INVALID)):
        with pytest.raises(Rv) as error:
            token.sign(session, private, CKM.RSA_X_509, data)
        assert error.value == rv


def test_wrong_signatures(token, session, pair):
    public, private = pair
    modulus = public_key(token, session, public).public_numbers().n
    session = token.open(token.slots()[0], RO)
    raw = {
        block: token.sign(session, private, CKM.RSA_X_509, block)
        for block in (
            b"\0\1" + b"\xff" * (SIZE - 2),  # no end
            b"\0\1" + b"\xff" * 7 + b"\0" + b"x" * (SIZE - 10),  # too short
            b"\0\2" + b"\xff" * (SIZE - 4) + b"\0x",  # that of encryption
            b"\0\1" + b"\xff" * 100 + b"\xfe" + b"\xff" * (SIZE - 104) + b"\0",
            b"\0\0" + b"\xff" * (SIZE - 4) + b"\0x",
        )
    }
    for signature in (*raw.values(), as_bytes(modulus), b"\xff" * SIZE, bytes(SIZE)):
        with pytest.raises(Rv) as error:
            recover(token, session, public, CKM.RSA_PKCS, signature)
        assert error.value == CKR.SIGNATURE_INVALID
    for block, signature in raw.items():
        assert recover(token, session, public, CKM.RSA_X_509, signature) == block
    for mechanism in MECHANISMS:
        for signature in (b"", bytes(SIZE - 1), bytes(SIZE + 1)):
            with pytest.raises(Rv) as error:
                recover(token, session, public, mechanism, signature)
            assert error.value == CKR.SIGNATURE_LEN_RANGE
    with pytest.raises(Rv) as error:
        recover(token, session, public, CKM.RSA_X_509, as_bytes(modulus))
    assert error.value == CKR.SIGNATURE_INVALID


def test_padding_is_taken_off():
    assert recovered(b"\0\1" + b"\xff" * 8 + b"\0") == b""
    assert recovered(b"\0\1" + b"\xff" * 8 + b"\0a\0b") == b"a\0b"
    assert recovered(b"\0\1" + b"\xff" * 9) is None
    assert recovered(b"") is None


def test_lengths_and_small_buffers(token, session, pair):
    """A query keeps the operation; a buffer may be as short as the data that come back."""
    public, private = pair
    signature = sign_recover(token, session, private, CKM.RSA_PKCS, b"four")
    length, out = token.ulong(), token.ffi.new("CK_BYTE[]", SIZE)
    token.C_VerifyRecoverInit(session, token.mechanism(CKM.RSA_PKCS), public)
    length[0] = 3
    assert token.raw.C_VerifyRecover(session, signature, SIZE, out, length) == CKR.BUFFER_TOO_SMALL
    assert length[0] == 4
    token.C_VerifyRecover(session, signature, SIZE, token.ffi.NULL, length)
    token.C_VerifyRecover(session, signature, SIZE, out, length)
    assert bytes(token.ffi.buffer(out, 4)) == b"four"
    assert token.raw.C_VerifyRecover(session, signature, SIZE, out, length) == CKR.OPERATION_NOT_INITIALIZED
    token.C_SignRecoverInit(session, token.mechanism(CKM.RSA_PKCS), private)
    length[0] = SIZE - 1
    assert token.raw.C_SignRecover(session, b"four", 4, out, length) == CKR.BUFFER_TOO_SMALL
    assert length[0] == SIZE
    token.C_SignRecover(session, b"four", 4, out, length)
    assert bytes(token.ffi.buffer(out, SIZE)) == signature
    assert token.raw.C_SignRecover(session, b"four", 4, out, length) == CKR.OPERATION_NOT_INITIALIZED


def test_calls_out_of_turn(token, session, pair):
    """They are operations of their own, beside a signature and a verification."""
    public, private = pair
    mechanism, null = token.mechanism(CKM.RSA_PKCS), token.ffi.NULL
    for begin, key, plain in (
        (token.raw.C_SignRecoverInit, private, token.raw.C_SignInit),
        (token.raw.C_VerifyRecoverInit, public, token.raw.C_VerifyInit),
    ):
        assert begin(session, null, key) == CKR.ARGUMENTS_BAD
        assert begin(session, mechanism, key) == CKR.OK
        assert begin(session, mechanism, key) == CKR.OPERATION_ACTIVE
        assert plain(session, mechanism, key) == CKR.OK
        assert begin(session, null, 0) == CKR.OK
        assert begin(session, mechanism, key) == CKR.OK


def test_what_a_key_may_not_do(token, session, pair):
    public, private = pair
    ec_public, ec_private = ec_pair(token, session)
    token.set(session, private, {CKA.SIGN_RECOVER: FALSE})
    token.set(session, public, {CKA.VERIFY_RECOVER: FALSE})
    for key, mechanism, rv in (
        (private, CKM.RSA_PKCS, CKR.KEY_FUNCTION_NOT_PERMITTED),
        (public, CKM.RSA_PKCS, CKR.KEY_TYPE_INCONSISTENT),
        (ec_private, CKM.RSA_PKCS, CKR.KEY_TYPE_INCONSISTENT),
        (private, CKM.SHA256_RSA_PKCS, CKR.MECHANISM_INVALID),
        (ec_private, CKM.ECDSA, CKR.MECHANISM_INVALID),
    ):
        assert token.raw.C_SignRecoverInit(session, token.mechanism(mechanism), key) == rv
    for key, mechanism, rv in (
        (public, CKM.RSA_PKCS, CKR.KEY_FUNCTION_NOT_PERMITTED),
        (private, CKM.RSA_PKCS, CKR.KEY_TYPE_INCONSISTENT),
        (ec_public, CKM.RSA_X_509, CKR.KEY_TYPE_INCONSISTENT),
        (public, CKM.RSA_PKCS_PSS, CKR.MECHANISM_INVALID),
    ):
        assert token.raw.C_VerifyRecoverInit(session, token.mechanism(mechanism), key) == rv
    token.sign(session, private, CKM.RSA_PKCS, b"x")


def test_a_short_key(token, session):
    key = token.create(session, rsa_object((2**256 - 189) * (2**256 - 2**32 - 977), 3))
    assert recover(token, session, key, CKM.RSA_X_509, bytes(63) + b"\2") == bytes(63) + b"\x08"
