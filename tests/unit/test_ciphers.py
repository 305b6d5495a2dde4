"""Ciphers without a token: what each call gives, and nonces that OpenSSL does not take."""

import hashlib
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from p11tpm import mechanism
from p11tpm.ck import CKK, CKR
from p11tpm.crypto import composed, gcm, key_wrap, padding
from p11tpm.crypto.block import InMemory
from p11tpm.crypto.modes import FORMS
from p11tpm.error import Error

KEY, IV = bytes(range(32)), bytes(range(16))
PARAMS = SimpleNamespace(iv=IV, bits=7, block=IV, nonce=IV[:12], associated=b"aad", tag_length=12)
STREAMS = [mechanism.ECB, mechanism.CBC, mechanism.CBC_PAD, mechanism.CFB, mechanism.CTR, mechanism.GCM]


@given(st.binary(max_size=70), st.binary(min_size=12, max_size=16), st.binary(max_size=40), st.sampled_from([4, 8, 16]))
def test_gcm_that_is_composed_is_that_of_openssl(message, nonce, associated, tag_length):
    params = SimpleNamespace(nonce=nonce, associated=associated, tag_length=tag_length)
    encrypted = AESGCM(KEY).encrypt(nonce, message, associated)
    encrypted = encrypted[: len(message) + tag_length]
    gcm_form, cipher = composed.FORMS[mechanism.GCM], InMemory(CKK.AES, KEY)
    assert gcm_form(cipher, params, True).whole(message) == encrypted
    assert gcm_form(cipher, params, False).whole(encrypted) == message


@pytest.mark.parametrize("left", range(4))
def test_the_counter_of_composed_gcm_begins_again(left):
    """The nonce is one whose counter block has `left` values to go until its last 32 bits are all set."""
    cipher = InMemory(CKK.AES, KEY)
    product, inverse_of = gcm._product, gcm._inverse  # noqa: SLF001 - the nonce for a counter block is found by them
    inverse = inverse_of(int.from_bytes(cipher.context(mechanism.ECB).update(bytes(16)), "big"))
    counter = int.from_bytes(IV[:12] + (0xFFFFFFFF - left).to_bytes(4, "big"), "big")
    nonce = product(product(counter, inverse) ^ 128, inverse).to_bytes(16, "big")
    params, message = SimpleNamespace(nonce=nonce, associated=b"aad", tag_length=16), bytes(100)
    encrypted = AESGCM(KEY).encrypt(nonce, message, b"aad")
    for size in (1, 16, 100):
        encryption = composed.FORMS[mechanism.GCM](cipher, params, True)
        parts = [encryption.update(message[at : at + size]) for at in range(0, len(message), size)]
        assert b"".join([*parts, encryption.finish()]) == encrypted
    assert composed.FORMS[mechanism.GCM](cipher, params, False).whole(encrypted) == message


@given(st.sampled_from(STREAMS), st.lists(st.binary(max_size=70), max_size=8))
def test_what_is_given_is_what_was_announced(form, parts):
    message = b"".join(parts)
    missing = -len(message) % 16 if form in {mechanism.ECB, mechanism.CBC} else 0
    parts, message = [*parts, bytes(missing)], message + bytes(missing)
    encrypted, decrypted = [], []
    for encrypt, given_, out in ((True, parts, encrypted), (False, encrypted, decrypted)):
        cipher = FORMS[form](InMemory(CKK.AES, KEY), PARAMS, encrypt)
        bound = cipher.bound(sum(map(len, given_)))
        for part in list(given_):
            step = cipher.step(len(part))
            out.append(cipher.update(part))
            assert step == len(out[-1])
        rest = cipher.rest
        out.append(cipher.finish())
        assert len(out[-1]) <= rest
        assert len(b"".join(out)) <= bound
    assert message == b"".join(decrypted)
    assert b"".join(encrypted) == FORMS[form](InMemory(CKK.AES, KEY), PARAMS, True).whole(message)


@settings(max_examples=30)
@given(
    st.binary(min_size=16, max_size=32).filter(lambda key: len(key) in {16, 24, 32}),
    st.binary(min_size=8, max_size=128),
)
def test_an_equivalent_nonce(key, nonce):
    """OpenSSL takes these nonces itself, so it can say whether the other one does the same."""
    if len(nonce) == 12:
        nonce += b"\0"  # nonces of 12 bytes are used as they are
    subkey = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(bytes(16))
    other = gcm.equivalent(nonce, subkey)
    assert AESGCM(key).encrypt(nonce, b"data", b"aad") == AESGCM(key).encrypt(other, b"data", b"aad")


@given(st.binary(max_size=300), st.sampled_from([128, 255, 256]))
def test_pkcs1_there_and_back(data, size):
    if len(data) > size - padding.PKCS1_LEAST:
        with pytest.raises(Error) as error:
            padding.pkcs1_cipher(data, size)
        assert error.value.rv == CKR.DATA_LEN_RANGE
        return
    block = padding.pkcs1_cipher(data, size)
    assert (size, 0) == (len(block), block[2 : size - len(data) - 1].count(0))
    assert data == padding.pkcs1_plain(block)


def by_the_book(block):
    """RFC 8017, clause 7.2.2, step 3."""
    head, zero, data = block[2:].partition(b"\0")
    return data if block[:2] == b"\0\x02" and zero and len(head) >= 8 else None


@settings(max_examples=300)
@given(
    st.builds(
        lambda head, tail: head + tail,
        st.sampled_from([b"\0\x02", b"\0\x02" + b"x" * 7, b"\0\x01", b""]),
        st.binary(min_size=12, max_size=40),
    )
)
def test_pkcs1_of_any_block(block):
    expected = by_the_book(block)
    if expected is None:
        with pytest.raises(Error) as error:
            padding.pkcs1_plain(block)
        assert error.value.rv == CKR.ENCRYPTED_DATA_INVALID
    else:
        assert expected == padding.pkcs1_plain(block)


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 127), st.integers(1, 255))
def test_oaep_with_a_changed_byte(data, at, change):
    block = bytearray(padding.oaep(data, 128, "sha256", "sha1", b"label"))
    assert data == padding.oaep_plain(bytes(block), "sha256", "sha1", b"label")
    block[at] ^= change
    with pytest.raises(Error) as error:
        padding.oaep_plain(bytes(block), "sha256", "sha1", b"label")
    assert error.value.rv == CKR.ENCRYPTED_DATA_INVALID


@pytest.mark.parametrize("rest", [b"", b"\0\0\x02\x01", b"\x02\x01"])
def test_oaep_without_its_separator(rest):
    rest = hashlib.sha1(b"").digest() + rest.ljust(87, b"\0")
    masked = padding._mask(rest, bytes(20), "sha1")  # noqa: SLF001 - a block that no encoder makes
    block = b"\0" + padding._mask(bytes(20), masked, "sha1") + masked  # noqa: SLF001
    with pytest.raises(Error) as error:
        padding.oaep_plain(block, "sha1", "sha1", b"")
    assert error.value.rv == CKR.ENCRYPTED_DATA_INVALID


@given(st.binary(min_size=1, max_size=80), st.integers(0, 87))
def test_key_wrapping_with_padding_there_and_back(data, at):
    encryptor = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor().update
    decryptor = Cipher(algorithms.AES(KEY), modes.ECB()).decryptor().update
    iv = key_wrap.initial(b"", padded=True)
    wrapped = key_wrap.wrap_padded(encryptor, iv, data)
    assert data == key_wrap.unwrap_padded(decryptor, iv, wrapped)
    changed = bytearray(wrapped)
    changed[at % len(wrapped)] ^= 1
    with pytest.raises(Error) as error:
        key_wrap.unwrap_padded(decryptor, iv, bytes(changed))
    assert error.value.rv == CKR.ENCRYPTED_DATA_INVALID
