"""Digests: every one compared with another implementation's (cryptography on OpenSSL)."""

import hashlib

import pytest
from cryptography.hazmat.primitives.hashes import (
    SHA1,
    SHA3_224,
    SHA3_256,
    SHA3_384,
    SHA3_512,
    SHA224,
    SHA256,
    SHA384,
    SHA512,
    Hash,
)
from cryptoki import RO, USER
from keys import ec_pair, secret_key

from p11tpm.attribute import TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR

PIN = b"123456"
DIGESTS = {CKM.SHA_1: SHA1, CKM.SHA224: SHA224, CKM.SHA256: SHA256, CKM.SHA384: SHA384, CKM.SHA512: SHA512}
DIGESTS |= {CKM.SHA3_224: SHA3_224, CKM.SHA3_256: SHA3_256, CKM.SHA3_384: SHA3_384, CKM.SHA3_512: SHA3_512}
MESSAGE = b"what is digested" * 1000


@pytest.fixture
def public_session(token, proxy):
    """A read-only session without a login; the TPM is asked nothing in it."""
    handle = token.open(token.slots()[0], RO)
    proxy.clear()
    yield handle
    assert proxy.commands == []


def openssl(mechanism, data):
    digest = Hash(DIGESTS[mechanism]())
    digest.update(data)
    return digest.finalize()


def finish(run, session):
    return run.bytes_of(lambda out, length: run.C_DigestFinal(session, out, length))


@pytest.mark.parametrize("mechanism", DIGESTS)
def test_digests(token, public_session, mechanism):
    for message in (b"", b"abc", MESSAGE):
        wanted = openssl(mechanism, message)
        assert token.digest(public_session, mechanism, message) == wanted
        token.C_DigestInit(public_session, token.mechanism(mechanism))
        for part in (message[:1], b"", message[1:77], message[77:]):
            token.C_DigestUpdate(public_session, part, len(part))
        assert finish(token, public_session) == wanted


def test_published_vectors(token, public_session):
    """FIPS 180-4 and FIPS 202, as the examples of NIST have them."""
    for mechanism, wanted in (
        (CKM.SHA_1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (CKM.SHA256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (CKM.SHA3_256, "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
    ):
        assert token.digest(public_session, mechanism, b"abc").hex() == wanted


def test_parts_may_be_none(token, public_session):
    token.C_DigestInit(public_session, token.mechanism(CKM.SHA256))
    assert finish(token, public_session) == hashlib.sha256().digest()


def test_a_length_query_and_a_small_buffer_keep_the_operation(token, public_session):
    length, out = token.ulong(), token.ffi.new("CK_BYTE[]", 32)
    token.C_DigestInit(public_session, token.mechanism(CKM.SHA256))
    for _ in range(2):
        token.C_Digest(public_session, b"abc", 3, token.ffi.NULL, length)
        assert length[0] == 32
    length[0] = 31
    assert token.raw.C_Digest(public_session, b"abc", 3, out, length) == CKR.BUFFER_TOO_SMALL
    assert length[0] == 32
    token.C_DigestUpdate(public_session, b"abc", 3)
    length[0] = 0
    assert token.raw.C_DigestFinal(public_session, out, length) == CKR.BUFFER_TOO_SMALL
    token.C_DigestFinal(public_session, out, length)
    assert bytes(token.ffi.buffer(out, 32)) == hashlib.sha256(b"abc").digest()
    assert token.raw.C_DigestFinal(public_session, out, length) == CKR.OPERATION_NOT_INITIALIZED


def test_calls_out_of_turn(token, public_session):
    length, out = token.ulong(), token.ffi.new("CK_BYTE[]", 64)
    length[0] = 64
    null, session = token.ffi.NULL, public_session
    for call in (
        lambda: token.raw.C_Digest(session, b"", 0, out, length),
        lambda: token.raw.C_DigestUpdate(session, b"", 0),
        lambda: token.raw.C_DigestKey(session, 1),
        lambda: token.raw.C_DigestFinal(session, out, length),
    ):
        assert call() == CKR.OPERATION_NOT_INITIALIZED
    assert token.raw.C_DigestInit(session, null) == CKR.ARGUMENTS_BAD
    assert token.raw.C_DigestInit(session, token.mechanism(CKM.ECDSA_SHA256)) == CKR.MECHANISM_INVALID
    token.C_DigestInit(session, token.mechanism(CKM.SHA256))
    assert token.raw.C_DigestInit(session, token.mechanism(CKM.SHA256)) == CKR.OPERATION_ACTIVE
    token.C_DigestInit(session, null)
    token.C_DigestInit(session, token.mechanism(CKM.SHA512))
    token.C_DigestUpdate(session, b"a", 1)
    assert token.raw.C_Digest(session, b"a", 1, out, length) == CKR.OPERATION_NOT_INITIALIZED
    assert token.raw.C_DigestFinal(session, out, length) == CKR.OPERATION_NOT_INITIALIZED
    token.C_DigestInit(session, token.mechanism(CKM.SHA512))
    assert token.raw.C_DigestUpdate(session, null, 1) == CKR.ARGUMENTS_BAD
    assert token.raw.C_DigestUpdate(session, b"a", 1) == CKR.OPERATION_NOT_INITIALIZED


def test_a_length_without_an_address(token, public_session):
    token.C_DigestInit(public_session, token.mechanism(CKM.SHA256))
    assert token.raw.C_Digest(public_session, b"a", 1, token.ffi.NULL, token.ffi.NULL) == CKR.ARGUMENTS_BAD
    assert token.raw.C_DigestFinal(public_session, token.ffi.NULL, token.ulong()) == CKR.OPERATION_NOT_INITIALIZED


def test_values_of_keys(token, public_session):
    """C_DigestKey, alone and between data."""
    key = secret_key(token, public_session, b"secret bytes")
    token.C_DigestInit(public_session, token.mechanism(CKM.SHA256))
    token.C_DigestKey(public_session, key)
    assert finish(token, public_session) == hashlib.sha256(b"secret bytes").digest()
    token.C_DigestInit(public_session, token.mechanism(CKM.SHA256))
    token.C_DigestUpdate(public_session, b"before ", 7)
    token.C_DigestKey(public_session, key)
    token.C_DigestUpdate(public_session, b" after", 6)
    assert finish(token, public_session) == hashlib.sha256(b"before secret bytes after").digest()


def test_the_value_of_a_token_key(token, session, proxy):
    template = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.AES), CKA.VALUE: bytes(16), CKA.TOKEN: TRUE}
    key = token.create(session, {**template, CKA.DERIVE: TRUE})
    proxy.clear()
    token.C_DigestInit(session, token.mechanism(CKM.SHA_1))
    token.C_DigestKey(session, key)
    assert finish(token, session) == hashlib.sha1(bytes(16)).digest()
    assert proxy.commands == []


def test_keys_that_can_not_be_digested(token, session):
    """The digest goes on without them: clause 5.12.4 does not say that it ends, as 5.12.3 does."""
    token.C_DigestInit(session, token.mechanism(CKM.SHA256))
    token.C_DigestUpdate(session, b"a", 1)
    for key in ec_pair(token, session):
        assert token.raw.C_DigestKey(session, key) == CKR.KEY_INDIGESTIBLE
    assert token.raw.C_DigestKey(session, 999) == CKR.KEY_HANDLE_INVALID
    assert hashlib.sha256(b"a").digest() == token.bytes_of(lambda *out: token.C_DigestFinal(session, *out))


def test_logout_ends_a_digest(token, session):
    token.C_DigestInit(session, token.mechanism(CKM.SHA256))
    token.logout(session)
    assert token.raw.C_DigestUpdate(session, b"a", 1) == CKR.OPERATION_NOT_INITIALIZED
    token.login(session, USER, PIN)
