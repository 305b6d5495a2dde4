"""Encodings, checked by another implementation: a software key does the private operation, cryptography verifies."""

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding as reference
from cryptography.hazmat.primitives.asymmetric import rsa, utils

from p11tpm import algorithm
from p11tpm.ck import CKR
from p11tpm.crypto import padding
from p11tpm.error import Error

HASHES = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


@pytest.fixture(scope="module", params=[2048, 1024, 1031])
def key(request):
    return rsa.generate_private_key(65537, request.param)


def private_operation(key, block):
    numbers = key.private_numbers()
    n = numbers.public_numbers.n
    return pow(int.from_bytes(block, "big"), numbers.d, n).to_bytes((n.bit_length() + 7) // 8, "big")


@pytest.mark.parametrize("digest", HASHES)
def test_pkcs1_signature_verifies(key, digest):
    hashed = hashlib.new(digest, b"message").digest()
    block = padding.pkcs1(algorithm.HASHES[digest].digest_info + hashed, (key.key_size + 7) // 8)
    key.public_key().verify(private_operation(key, block), b"message", reference.PKCS1v15(), HASHES[digest])


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384"])
@pytest.mark.parametrize("mask", ["sha1", "sha256"])
@pytest.mark.parametrize("salt", [0, 20, 32])
def test_pss_signature_verifies(key, digest, mask, salt):
    hashed = hashlib.new(digest, b"message").digest()
    block = padding.pss(hashed, key.key_size, digest, mask, salt)
    key.public_key().verify(
        private_operation(key, block),
        hashed,
        reference.PSS(reference.MGF1(HASHES[mask]), salt),
        utils.Prehashed(HASHES[digest]),
    )


def test_pss_salts_are_fresh():
    assert padding.pss(bytes(32), 2048, "sha256", "sha256", 32) != padding.pss(bytes(32), 2048, "sha256", "sha256", 32)


@pytest.mark.parametrize(
    ("call", "rv"),
    [
        (lambda: padding.pkcs1(bytes(246), 256), CKR.DATA_LEN_RANGE),
        (lambda: padding.pss(bytes(31), 2048, "sha256", "sha256", 32), CKR.DATA_LEN_RANGE),
        (lambda: padding.pss(bytes(32), 2048, "sha256", "sha256", 223), CKR.MECHANISM_PARAM_INVALID),
        (lambda: padding.ecdsa(b"", 256), CKR.DATA_LEN_RANGE),
        (lambda: padding.ecdsa(bytes(65), 521), CKR.DATA_LEN_RANGE),
    ],
)
def test_what_does_not_fit_is_refused(call, rv):
    with pytest.raises(Error) as error:
        call()
    assert rv == error.value.rv


def test_pkcs1_takes_every_length_up_to_its_limit():
    assert 256 == len(padding.pkcs1(bytes(245), 256)) == len(padding.pkcs1(b"", 256))


@pytest.mark.parametrize(
    ("length", "bits", "expected"),
    [
        (20, 256, bytes(12) + bytes(range(20))),
        (32, 256, bytes(range(32))),
        (64, 256, bytes(range(32))),
        (20, 384, bytes(28) + bytes(range(20))),
        (64, 384, bytes(range(48))),
        (64, 521, bytes(range(64))),
        (32, 521, bytes(32) + bytes(range(32))),
    ],
)
def test_ecdsa_keeps_the_leftmost_bits_or_the_number(length, bits, expected):
    assert expected == padding.ecdsa(bytes(range(length)), bits)
