"""Message authentication codes: published vectors, and other implementations where there are none."""

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptoki import RO, USER, Rv
from keys import ec_pair, secret_key

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKR

PIN = b"123456"
# RFC 4231, and RFC 2202 for SHA-1: (key, data, {hash: code})
HMACS = (
    (
        b"\x0b" * 20,
        b"Hi There",
        {
            "sha1": "b617318655057264e28bc0b6fb378c8ef146be00",
            "sha224": "896fb1128abbdf196832107cd49df33f47b4b1169912ba4f53684b22",
            "sha256": "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            "sha384": "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59c"
            "faea9ea9076ede7f4af152e8b2fa9cb6",
            "sha512": "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"
            "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
        },
    ),
    (
        b"Jefe",
        b"what do ya want for nothing?",
        {
            "sha1": "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
            "sha224": "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44",
            "sha256": "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            "sha384": "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e"
            "8e2240ca5e69e2c78b3239ecfab21649",
            "sha512": "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
            "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        },
    ),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        {
            "sha224": "95e9a0db962095adaebe9b2d6f0dbce2d499f112f2d2b7273fa6870e",
            "sha256": "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            "sha384": "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c6"
            "0c2ef6ab4030fe8296248df163f44952",
            "sha512": "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352"
            "6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
        },
    ),
)
# RFC 4231, test case 5, and RFC 2202, test case 5: the leftmost bytes
TRUNCATED = {
    "sha1": "4c1a03424b55e07fe7f27be1",
    "sha224": "0e2aea68a90c8d37c988bcdb9fca6fa8",
    "sha256": "a3b6167473100ee06e0c796c2955552b",
    "sha384": "3abf34c3503b2a23a46efc619baef897",
    "sha512": "415fad6271580a531d4179bc891d87a6",
}
MECHANISMS = {  # hash: HMAC, HMAC_GENERAL, key type
    "sha1": (CKM.SHA_1_HMAC, CKM.SHA_1_HMAC_GENERAL, CKK.SHA_1_HMAC),
    "sha224": (CKM.SHA224_HMAC, CKM.SHA224_HMAC_GENERAL, CKK.SHA224_HMAC),
    "sha256": (CKM.SHA256_HMAC, CKM.SHA256_HMAC_GENERAL, CKK.SHA256_HMAC),
    "sha384": (CKM.SHA384_HMAC, CKM.SHA384_HMAC_GENERAL, CKK.SHA384_HMAC),
    "sha512": (CKM.SHA512_HMAC, CKM.SHA512_HMAC_GENERAL, CKK.SHA512_HMAC),
}
# NIST SP 800-38B, appendix D (examples of 2016): the code of 0, 16, 40 and 64 bytes
MESSAGE = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
CMACS = {
    "2b7e151628aed2a6abf7158809cf4f3c": {
        0: "bb1d6929e95937287fa37d129b756746",
        16: "070a16b46b4d4144f79bdd9dd04a287c",
        40: "dfa66747de9ae63030ca32611497c827",
        64: "51f0bebf7e3b9d92fc49741779363cfe",
    },
    "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b": {
        0: "d17ddf46adaacde531cac483de7a9367",
        16: "9e99a7bf31e710900662f65e617c5184",
        40: "8a1de5be2eb31aad089a82e6ee908b0e",
        64: "a1d5df0eed790f794d77589659f39a11",
    },
    "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4": {
        0: "028962f61b7bf89efc6b551f4667d983",
        16: "28a7023f452e8f82bd4bf28d8c37c35c",
        40: "aaf3d8f1de5640c232f5b169b9c911e6",
        64: "e1992190549f6ed5696a2c056c315410",
    },
}
LENGTHS = (0, 1, 15, 16, 17, 32, 40, 64)


@pytest.fixture
def public_session(token, proxy):
    """A read-only session without a login; the TPM is asked nothing in it."""
    handle = token.open(token.slots()[0], RO)
    proxy.clear()
    yield handle
    assert proxy.commands == []


def parts_of(data):
    return [data[:1], b"", data[1:18], data[18:]]


def check(run, session, key, mechanism, data, code, parameter=b""):
    """Sign and verify, whole and in parts; a wrong code, a wrong length and other data are refused."""
    assert run.sign(session, key, mechanism, data, parameter).hex() == code.hex()
    assert run.sign_parts(session, key, mechanism, parts_of(data), parameter) == code
    run.verify(session, key, mechanism, data, code, parameter)
    run.verify_parts(session, key, mechanism, parts_of(data), code, parameter)
    for wrong, rv in (
        (code[:-1] + bytes([code[-1] ^ 1]), CKR.SIGNATURE_INVALID),
        (bytes([code[0] ^ 0x80]) + code[1:], CKR.SIGNATURE_INVALID),
        (bytes(len(code)), CKR.SIGNATURE_INVALID),
        (code[:-1], CKR.SIGNATURE_LEN_RANGE),
        (code + b"\0", CKR.SIGNATURE_LEN_RANGE),
        (b"", CKR.SIGNATURE_LEN_RANGE),
    ):
        for verify, what in ((run.verify, data), (run.verify_parts, parts_of(data))):
            with pytest.raises(Rv) as error:
                verify(session, key, mechanism, what, wrong, parameter)
            assert error.value == rv
    with pytest.raises(Rv) as error:
        run.verify(session, key, mechanism, data + b"x", code, parameter)
    assert error.value == CKR.SIGNATURE_INVALID


@pytest.mark.parametrize("digest", MECHANISMS)
def test_hmac(token, public_session, digest):
    plain, general, key_type = MECHANISMS[digest]
    for value, data, codes in HMACS:
        if digest not in codes:
            continue
        code = bytes.fromhex(codes[digest])
        for kind in (CKK.GENERIC_SECRET, key_type):
            key = secret_key(token, public_session, value, kind)
            check(token, public_session, key, plain, data, code)
        for length in (1, 10, len(code)):
            check(token, public_session, key, general, data, code[:length], ulong(length))
    truncated = bytes.fromhex(TRUNCATED[digest])
    key = secret_key(token, public_session, b"\x0c" * 20)
    check(token, public_session, key, general, b"Test With Truncation", truncated, ulong(len(truncated)))


@pytest.mark.parametrize("value", CMACS)
def test_cmac(token, public_session, value):
    key = secret_key(token, public_session, bytes.fromhex(value), CKK.AES)
    for length, expected in CMACS[value].items():
        code = bytes.fromhex(expected)
        check(token, public_session, key, CKM.AES_CMAC, MESSAGE[:length], code)
        check(token, public_session, key, CKM.AES_CMAC_GENERAL, MESSAGE[:length], code[:12], ulong(12))


@pytest.mark.parametrize("value", CMACS)
def test_cbc_mac(token, public_session, value):
    """Half a block of the last block of CBC over zero-filled data (FIPS 113)."""
    key = secret_key(token, public_session, bytes.fromhex(value), CKK.AES)
    for length in LENGTHS[1:]:
        data = MESSAGE[:length]
        cipher = Cipher(AES(bytes.fromhex(value)), CBC(bytes(16))).encryptor()
        code = cipher.update(data + bytes(-length % 16))[-16:]
        check(token, public_session, key, CKM.AES_MAC, data, code[:8])
        check(token, public_session, key, CKM.AES_MAC_GENERAL, data, code, ulong(16))
        check(token, public_session, key, CKM.AES_MAC_GENERAL, data, code[:4], ulong(4))
    with pytest.raises(Rv) as error:
        token.sign(public_session, key, CKM.AES_MAC, b"")
    assert error.value == CKR.DATA_LEN_RANGE


def test_lengths_that_a_code_can_not_have(token, public_session):
    secret = secret_key(token, public_session, b"value")
    aes = secret_key(token, public_session, bytes(16), CKK.AES)
    for key, mechanism, most in (
        (secret, CKM.SHA_1_HMAC_GENERAL, 20),
        (secret, CKM.SHA512_HMAC_GENERAL, 64),
        (aes, CKM.AES_CMAC_GENERAL, 16),
        (aes, CKM.AES_MAC_GENERAL, 16),
    ):
        for parameter in (ulong(0), ulong(most + 1), b"\xff" * 8, b"", b"\x01"):
            for begin in (token.raw.C_SignInit, token.raw.C_VerifyInit):
                rv = begin(public_session, token.mechanism(mechanism, parameter), key)
                assert rv == CKR.MECHANISM_PARAM_INVALID


def test_a_length_query_and_a_small_buffer_keep_the_operation(token, public_session):
    key = secret_key(token, public_session, b"Jefe")
    code = bytes.fromhex(HMACS[1][2]["sha256"])
    data = HMACS[1][1]
    length, out = token.ulong(), token.ffi.new("CK_BYTE[]", 32)
    token.C_SignInit(public_session, token.mechanism(CKM.SHA256_HMAC), key)
    token.C_Sign(public_session, data, len(data), token.ffi.NULL, length)
    assert length[0] == 32
    token.C_SignUpdate(public_session, data, len(data))
    length[0] = 31
    assert token.raw.C_SignFinal(public_session, out, length) == CKR.BUFFER_TOO_SMALL
    token.C_SignFinal(public_session, token.ffi.NULL, length)
    token.C_SignFinal(public_session, out, length)
    assert bytes(token.ffi.buffer(out, 32)) == code
    assert token.raw.C_SignFinal(public_session, out, length) == CKR.OPERATION_NOT_INITIALIZED


def test_calls_out_of_turn(token, public_session):
    key, out, length = secret_key(token, public_session, b"k"), token.ffi.new("CK_BYTE[]", 32), token.ulong()
    length[0] = 32
    hmac, session = token.mechanism(CKM.SHA256_HMAC), public_session
    token.C_VerifyInit(session, hmac, key)
    assert token.raw.C_VerifyInit(session, hmac, key) == CKR.OPERATION_ACTIVE
    token.C_VerifyInit(session, token.ffi.NULL, 0)
    assert token.raw.C_VerifyFinal(session, bytes(32), 32) == CKR.OPERATION_NOT_INITIALIZED
    token.C_VerifyInit(session, hmac, key)
    token.C_VerifyUpdate(session, b"a", 1)
    assert token.raw.C_Verify(session, b"a", 1, bytes(32), 32) == CKR.OPERATION_NOT_INITIALIZED
    token.C_VerifyInit(session, hmac, key)
    assert token.raw.C_VerifyFinal(session, b"x", 0) == CKR.SIGNATURE_LEN_RANGE
    token.C_SignInit(session, hmac, key)
    token.C_SignUpdate(session, b"a", 1)
    assert token.raw.C_Sign(session, b"a", 1, out, length) == CKR.OPERATION_NOT_INITIALIZED


def test_what_a_key_may_not_do(token, session):
    secret, aes = secret_key(token, session, b"k"), secret_key(token, session, bytes(16), CKK.AES)
    idle = secret_key(token, session, b"k", SIGN=FALSE, VERIFY=FALSE)
    only = secret_key(token, session, b"k", ALLOWED_MECHANISMS=ulong(CKM.SHA256_HMAC))
    sha1 = secret_key(token, session, b"k", CKK.SHA_1_HMAC)
    public, private = ec_pair(token, session)
    for key, mechanism, rv in (
        (idle, CKM.SHA256_HMAC, CKR.KEY_FUNCTION_NOT_PERMITTED),
        (only, CKM.SHA512_HMAC, CKR.MECHANISM_INVALID),
        (sha1, CKM.SHA256_HMAC, CKR.KEY_TYPE_INCONSISTENT),
        (aes, CKM.SHA256_HMAC, CKR.KEY_TYPE_INCONSISTENT),
        (secret, CKM.AES_CMAC, CKR.KEY_TYPE_INCONSISTENT),
        (secret, CKM.ECDSA, CKR.KEY_TYPE_INCONSISTENT),
        (public, CKM.SHA256_HMAC, CKR.KEY_TYPE_INCONSISTENT),
        (private, CKM.AES_CMAC, CKR.KEY_TYPE_INCONSISTENT),
    ):
        for begin in (token.raw.C_SignInit, token.raw.C_VerifyInit):
            assert begin(session, token.mechanism(mechanism), key) == rv
    assert token.raw.C_SignRecoverInit(session, token.mechanism(CKM.SHA256_HMAC), secret) == CKR.MECHANISM_INVALID
    token.sign(session, only, CKM.SHA256_HMAC, b"x")


def test_keys_of_the_token(token, session, proxy):
    """They are kept encrypted, and the TPM is not asked when they are used."""
    value, data, codes = HMACS[1]
    key = secret_key(token, session, value, TOKEN=TRUE, PRIVATE=TRUE, LABEL=b"jefe")
    proxy.clear()
    check(token, session, key, CKM.SHA256_HMAC, data, bytes.fromhex(codes["sha256"]))
    assert proxy.commands == []
    token.logout(session)
    assert token.raw.C_SignInit(session, token.mechanism(CKM.SHA256_HMAC), key) == CKR.KEY_HANDLE_INVALID
    token.login(session, USER, PIN)
    (found,) = token.find(session, {CKA.LABEL: b"jefe"})
    check(token, session, found, CKM.SHA256_HMAC, data, bytes.fromhex(codes["sha256"]))
