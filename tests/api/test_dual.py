"""Two operations at once, compared with one after the other and with other implementations."""

import hashlib
import hmac
import os

import pytest
from ciphers import fails, room
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from keys import ec_pair, public_key, verify_ecdsa
from parameters import ctr

from p11tpm.attribute import FALSE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR

IV = bytes(range(16))
VALUE = bytes(range(32))
DATA = os.urandom(1000)
PARTS = [DATA[:1], b"", DATA[1:500], DATA[500:]]
HMAC_KEY = b"a key for authentication codes"


def expected():
    padded = DATA + bytes([16 - len(DATA) % 16]) * (16 - len(DATA) % 16)
    encryptor = Cipher(algorithms.AES(VALUE), modes.CBC(IV)).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


class Dual:
    """A session with an AES key, and the calls of a dual function with every part."""

    def __init__(self, run, session):
        self.run, self.session = run, session
        template = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.PRIVATE: FALSE}
        self.key = run.create(session, {**template, CKA.KEY_TYPE: ulong(CKK.AES), CKA.VALUE: VALUE})
        generic = {**template, CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET), CKA.VALUE: HMAC_KEY}
        self.secret = run.create(session, generic)

    def begin(self, way):
        getattr(self.run, f"C_{way}Init")(self.session, self.run.mechanism(CKM.AES_CBC_PAD, IV), self.key)

    def update(self, function, parts):
        call = getattr(self.run, function)
        return b"".join(
            self.run.bytes_of(lambda *out, part=part: call(self.session, part, len(part), *out)) for part in parts
        )

    def final(self, function):
        return self.run.bytes_of(lambda *out: getattr(self.run, function)(self.session, *out))


@pytest.fixture
def dual(token, session):
    return Dual(token, session)


def encrypted_parts():
    whole = expected()
    return [whole[:5], b"", whole[5:300], whole[300:]]


def test_digest_and_encrypt(token, dual):
    token.C_DigestInit(dual.session, token.mechanism(CKM.SHA256))
    dual.begin("Encrypt")
    encrypted = dual.update("C_DigestEncryptUpdate", PARTS) + dual.final("C_EncryptFinal")
    assert expected() == encrypted
    assert hashlib.sha256(DATA).digest() == dual.final("C_DigestFinal")


def test_decrypt_and_digest(token, dual):
    """What the last block holds comes with C_DecryptFinal: the host digests it itself (clause 5.15.2)."""
    token.C_DigestInit(dual.session, token.mechanism(CKM.SHA256))
    dual.begin("Decrypt")
    plain = dual.update("C_DecryptDigestUpdate", encrypted_parts())
    last = dual.final("C_DecryptFinal")
    assert plain + last == DATA
    token.C_DigestUpdate(dual.session, last, len(last))
    assert hashlib.sha256(DATA).digest() == dual.final("C_DigestFinal")


@pytest.mark.parametrize("by", ["hmac", "tpm"])
def test_sign_and_encrypt(token, dual, by):
    public, private = ec_pair(token, dual.session)
    mechanism, key = (CKM.SHA256_HMAC, dual.secret) if by == "hmac" else (CKM.ECDSA_SHA256, private)
    token.C_SignInit(dual.session, token.mechanism(mechanism), key)
    dual.begin("Encrypt")
    encrypted = dual.update("C_SignEncryptUpdate", PARTS) + dual.final("C_EncryptFinal")
    assert expected() == encrypted
    signature = dual.final("C_SignFinal")
    if by == "hmac":
        assert hmac.new(HMAC_KEY, DATA, "sha256").digest() == signature
    else:
        verify_ecdsa(public_key(token, dual.session, public), signature, DATA, "sha256")


@pytest.mark.parametrize("right", [True, False])
def test_decrypt_and_verify(token, dual, right):
    token.C_VerifyInit(dual.session, token.mechanism(CKM.SHA256_HMAC), dual.secret)
    dual.begin("Decrypt")
    plain = dual.update("C_DecryptVerifyUpdate", encrypted_parts())
    last = dual.final("C_DecryptFinal")
    assert plain + last == DATA
    token.C_VerifyUpdate(dual.session, last, len(last))
    code = hmac.new(HMAC_KEY if right else b"another", DATA, "sha256").digest()
    if right:
        token.C_VerifyFinal(dual.session, code, len(code))
    else:
        fails(CKR.SIGNATURE_INVALID, token.C_VerifyFinal, dual.session, code, len(code))


def test_without_room_nothing_is_consumed(token, dual):
    token.C_DigestInit(dual.session, token.mechanism(CKM.SHA256))
    dual.begin("Encrypt")
    out, length = room(token, 991)
    fails(CKR.BUFFER_TOO_SMALL, token.C_DigestEncryptUpdate, dual.session, DATA, len(DATA), out, length)
    assert length[0] == 992
    encrypted = dual.update("C_DigestEncryptUpdate", [DATA]) + dual.final("C_EncryptFinal")
    assert (expected(), hashlib.sha256(DATA).digest()) == (encrypted, dual.final("C_DigestFinal"))


@pytest.mark.parametrize(
    ("function", "way", "other"),
    [
        ("C_DigestEncryptUpdate", "Encrypt", "Digest"),
        ("C_DecryptDigestUpdate", "Decrypt", "Digest"),
        ("C_SignEncryptUpdate", "Encrypt", "Sign"),
        ("C_DecryptVerifyUpdate", "Decrypt", "Verify"),
    ],
)
def test_both_have_to_be_there(token, dual, function, way, other):
    def begin_other():
        if other == "Digest":
            token.C_DigestInit(dual.session, token.mechanism(CKM.SHA256))
        else:
            getattr(token, f"C_{other}Init")(dual.session, token.mechanism(CKM.SHA256_HMAC), dual.secret)

    def begin_it():
        dual.begin(way)

    def call(part, length):
        getattr(token, function)(dual.session, part, length, *room(token, 99))

    fails(CKR.OPERATION_NOT_INITIALIZED, call, DATA, 16)
    for begin, end in ((begin_it, f"C_{way}Final"), (begin_other, f"C_{other}Final")):
        begin()
        fails(CKR.OPERATION_NOT_INITIALIZED, call, DATA, 16)
        ended = getattr(token, end)
        argument = (bytes(32), 32) if other == "Verify" and "Verify" in end else room(token, 99)
        getattr(token.raw, end)(dual.session, *argument)  # whether the failure ended it or not
        fails(CKR.OPERATION_NOT_INITIALIZED, ended, dual.session, *argument)
    begin_it()
    begin_other()
    fails(CKR.ARGUMENTS_BAD, call, token.ffi.NULL, 16)
    fails(CKR.OPERATION_NOT_INITIALIZED, call, DATA, 16)
    begin_it()
    fails(CKR.OPERATION_ACTIVE, begin_other)  # what was to take the plaintext has taken nothing, and goes on
    call(DATA, 16)


def test_what_is_not_encrypted_is_not_digested(token, dual):
    """No plaintext is passed to the active digest if an error occurs (clause 5.16.1)."""
    token.C_DigestInit(dual.session, token.mechanism(CKM.SHA256))
    token.C_EncryptInit(dual.session, token.mechanism(CKM.AES_CTR, ctr(1, IV)), dual.key)
    token.C_DigestEncryptUpdate(dual.session, DATA, 16, *room(token, 16))
    fails(CKR.DATA_LEN_RANGE, token.C_DigestEncryptUpdate, dual.session, DATA, 17, *room(token, 17))
    fails(CKR.OPERATION_NOT_INITIALIZED, token.C_EncryptFinal, dual.session, *room(token, 17))
    assert hashlib.sha256(DATA[:16]).digest() == dual.final("C_DigestFinal")
