"""Key derivation, obfuscation and salts, against another implementation."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from hypothesis import given
from hypothesis import strategies as st

from p11tpm.error import Error
from p11tpm.host.locked import Locked
from p11tpm.tpm import kdf, template
from p11tpm.tpm.codec import Reader, sized, u16, u32
from p11tpm.tpm.salt import make_salt

BYTES = st.binary(min_size=0, max_size=70)
HASHES = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384()}
SIZES = st.integers(1, 200)


@given(st.sampled_from(sorted(HASHES)), st.binary(min_size=1, max_size=64), BYTES, BYTES, SIZES)
def test_kdfa_is_the_counter_mode_of_sp_800_108(digest, key, newer, older, size):
    kbkdf = KBKDFHMAC(
        algorithm=HASHES[digest],
        mode=Mode.CounterMode,
        length=size,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=b"XOR",
        context=newer + older,
        fixed=None,
    )
    assert kdf.kdfa(digest, key, b"XOR", newer, older, size * 8) == kbkdf.derive(key)


@given(st.sampled_from(sorted(HASHES)), st.binary(min_size=1, max_size=66), BYTES, BYTES, SIZES)
def test_kdfe_is_the_concatenation_kdf_of_sp_800_56a(digest, shared, ours, theirs, size):
    concat = ConcatKDFHash(HASHES[digest], size, b"SECRET\0" + ours + theirs)
    assert kdf.kdfe(digest, shared, b"SECRET", ours, theirs, size * 8) == concat.derive(shared)


@given(BYTES, BYTES)
def test_what_is_hidden_can_be_uncovered(key, data):
    locked, fixed = Locked(key), kdf.fixed(b"XOR", b"newer", b"older", len(data) * 8)
    hidden = locked.mask(fixed, data)
    assert locked.mask(fixed, hidden) == data
    assert len(hidden) == len(data)
    assert len(data) < 8 or hidden != data


@given(st.binary(max_size=200), st.binary(max_size=300))
def test_a_mask_is_made_by_kdfa(key, data):
    mask = kdf.kdfa("sha256", key, b"XOR", b"newer", b"older", len(data) * 8)
    hidden = Locked(key).mask(kdf.fixed(b"XOR", b"newer", b"older", len(data) * 8), data)
    assert hidden == bytes(one ^ other for one, other in zip(data, mask, strict=True))


NULL = u16(0x0010)
AES = u16(0x0006) + u16(128) + u16(0x0043)


@pytest.mark.parametrize(("digest", "number"), [("sha256", 0x000B), ("sha384", 0x000C)])
def test_a_salt_for_an_rsa_key_is_what_its_private_key_decrypts(digest, number):
    private = rsa.generate_private_key(65537, 2048)
    modulus = private.public_key().public_numbers().n.to_bytes(256, "big")
    public = u16(1) + u16(number) + u32(0x30472) + sized(b"") + AES + NULL + u16(2048) + u32(0) + sized(modulus)
    salt, secret = make_salt(public)
    algorithm = HASHES[digest]
    assert private.decrypt(secret, padding.OAEP(padding.MGF1(algorithm), algorithm, b"SECRET\0")) == salt
    assert len(salt) == algorithm.digest_size


def ecc_public(curve: ec.EllipticCurve, number: int, digest: int) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    private = ec.generate_private_key(curve)
    point = private.public_key().public_numbers()
    # a TPM may leave out leading zero bytes
    x, y = (value.to_bytes((value.bit_length() + 7) // 8, "big") for value in (point.x, point.y))
    head = u16(0x23) + u16(digest) + u32(0x30472) + sized(b"")
    return private, head + AES + NULL + u16(number) + NULL + sized(x) + sized(y)


@pytest.mark.parametrize(
    ("curve", "number", "digest", "algorithm"),
    [(ec.SECP256R1(), 3, 0x000B, hashes.SHA256()), (ec.SECP384R1(), 4, 0x000C, hashes.SHA384())],
)
def test_a_salt_for_an_ecc_key_is_what_its_private_key_agrees_on(curve, number, digest, algorithm):
    for _ in range(40):
        private, public = ecc_public(curve, number, digest)
        salt, secret = make_salt(public)
        reader = Reader(secret)
        x, y = reader.buffer(), reader.buffer()
        reader.end()
        ephemeral = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve)
        shared = private.exchange(ec.ECDH(), ephemeral.public_key())
        own = private.public_key().public_numbers().x.to_bytes(len(x), "big")
        assert ConcatKDFHash(algorithm, algorithm.digest_size, b"SECRET\0" + x + own).derive(shared) == salt


def test_a_point_off_the_curve_is_refused():
    public = template.srk()[:-4] + sized(bytes(31) + b"\1") + sized(bytes(31) + b"\1")
    with pytest.raises(Error, match="not a point on its curve"):
        make_salt(public)


def test_a_storage_root_key_on_an_unusual_curve_is_refused_with_the_reason():
    _, public = ecc_public(ec.SECP521R1(), 5, 0x000D)
    with pytest.raises(Error, match="p521: P-256 or P-384 is needed"):
        make_salt(public)
