"""Triple DES with keys of two and three parts: keys, modes, codes, and keys from and for other keys."""

from __future__ import annotations

import hashlib

import pytest
from ciphers import fails, in_parts
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from keys import secret_key
from parameters import cbc_data, string, ulongs

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR

try:
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES  # from version 43 on
except ImportError:
    from cryptography.hazmat.primitives.ciphers.algorithms import TripleDES

OPEN = {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE, CKA.CLASS: ulong(CKO.SECRET_KEY)}
DES3 = bytes.fromhex("0123456789abcdef23456789abcdef01456789abcdef0123")  # SP 800-67 revision 1, appendix B.1
DES2 = DES3[:16]
PLAIN = b"The qufck brown fox jump"
IV = bytes(range(8))
TYPES = {CKK.DES2: DES2, CKK.DES3: DES3}


def generate(run, session, mechanism, template):
    handle = run.ulong()
    run.C_GenerateKey(session, run.mechanism(mechanism), *run.template(template), handle)
    return handle[0]


def triple_des(key, mode, data):
    encryptor = Cipher(TripleDES((key + key)[:24]), mode).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def test_published_triple_des(token, session):
    """SP 800-67 revision 1, appendix B.1."""
    key = secret_key(token, session, DES3, CKK.DES3)
    encrypted = bytes.fromhex("a826fd8ce53b855fcce21c8112256fe668d5c05dd9b6b900")
    assert token.crypt("Encrypt", session, key, CKM.DES3_ECB, PLAIN) == encrypted
    assert token.crypt("Decrypt", session, key, CKM.DES3_ECB, encrypted) == PLAIN


@pytest.mark.parametrize("key_type", TYPES)
def test_published_cmac(token, session, key_type):
    """SP 800-38B, appendices D.4 to D.6 as of 2005: three keys, two keys; messages of 0, 8, 20 and 32 bytes."""
    keys = {
        CKK.DES3: "8aa83bf8cbda10620bc1bf19fbb6cd58bc313d4a371ca8b5",
        CKK.DES2: "4cf15134a2850dd58a3d10ba80570d38",
    }
    codes = {
        CKK.DES3: ("b7a688e122ffaf95", "8e8f293136283797", "743ddbe0ce2dc2ed", "33e6b1092400eae5"),
        CKK.DES2: ("bd2ebf9a3ba00361", "4ff2ab813c53ce83", "62dd1b471902bd4e", "31b1e431dabc4eb8"),
    }
    message = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    key = secret_key(token, session, bytes.fromhex(keys[key_type]), key_type)
    for length, code in zip((0, 8, 20, 32), codes[key_type], strict=True):
        assert token.sign(session, key, CKM.DES3_CMAC, message[:length]).hex() == code
        assert token.sign(session, key, CKM.DES3_CMAC_GENERAL, message[:length], ulongs(3)).hex() == code[:6]
        token.verify(session, key, CKM.DES3_CMAC, message[:length], bytes.fromhex(code))


@pytest.mark.parametrize("key_type", TYPES)
def test_des_modes(token, session, key_type):
    value = TYPES[key_type]
    key = secret_key(token, session, value, key_type, DERIVE=TRUE)
    for data in (b"", PLAIN, PLAIN * 7):
        assert token.crypt("Encrypt", session, key, CKM.DES3_CBC, data, IV) == triple_des(value, modes.CBC(IV), data)
    for data in (b"", b"1234567", PLAIN, PLAIN + b"!"):
        padded = data + bytes((8 - len(data) % 8,)) * (8 - len(data) % 8)
        expected = triple_des(value, modes.CBC(IV), padded)
        assert token.crypt("Encrypt", session, key, CKM.DES3_CBC_PAD, data, IV) == expected
        assert token.crypt("Decrypt", session, key, CKM.DES3_CBC_PAD, expected, IV) == data
        parts = token.crypt_parts("Decrypt", session, key, CKM.DES3_CBC_PAD, in_parts(expected, 5), IV)
        assert b"".join(parts) == data
    fails(CKR.DATA_LEN_RANGE, token.crypt, "Encrypt", session, key, CKM.DES3_CBC, b"1234", IV)
    fails(CKR.MECHANISM_PARAM_INVALID, token.crypt, "Encrypt", session, key, CKM.DES3_CBC, PLAIN, IV * 2)
    fails(CKR.KEY_TYPE_INCONSISTENT, token.crypt, "Encrypt", session, key, CKM.AES_ECB, bytes(16))
    code = triple_des(value, modes.CBC(bytes(8)), PLAIN[:20] + bytes(4))[-8:]
    assert token.sign(session, key, CKM.DES3_MAC, PLAIN[:20]) == code[:4]
    assert token.sign(session, key, CKM.DES3_MAC_GENERAL, PLAIN[:20], ulongs(8)) == code
    assert token.get(session, key, CKA.CHECK_VALUE) == triple_des(value, modes.ECB(), bytes(8))[:3]
    kind = {**OPEN, CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET)}
    for mechanism, parameter, mode in (
        (CKM.DES3_ECB_ENCRYPT_DATA, string(PLAIN), modes.ECB()),
        (CKM.DES3_CBC_ENCRYPT_DATA, cbc_data(IV, PLAIN), modes.CBC(IV)),
    ):
        made = token.derive(session, key, mechanism, kind, parameter)
        assert token.get(session, made, CKA.VALUE) == triple_des(value, mode, PLAIN)


@pytest.mark.parametrize("key_type", TYPES)
def test_des_keys(token, session, key_type):
    length = len(TYPES[key_type])
    mechanism = CKM.DES2_KEY_GEN if key_type == CKK.DES2 else CKM.DES3_KEY_GEN
    for more in ({}, {CKA.TOKEN: TRUE}):
        value = token.get(session, generate(token, session, mechanism, {**OPEN, **more}), CKA.VALUE)
        assert len(value) == length
        assert all(byte.bit_count() % 2 for byte in value), "the parity bits are set"
    key = generate(token, session, mechanism, {})
    fails(CKR.ATTRIBUTE_TYPE_INVALID, token.get, session, key, CKA.VALUE_LEN)
    fails(CKR.ATTRIBUTE_SENSITIVE, token.get, session, key, CKA.VALUE)
    fails(CKR.ATTRIBUTE_TYPE_INVALID, generate, token, session, mechanism, {CKA.VALUE_LEN: ulong(length)})
    for wrong in (b"", bytes(8), bytes(length - 1), bytes(length + 1)):
        fails(CKR.KEY_SIZE_RANGE, secret_key, token, session, wrong, key_type)


@pytest.mark.parametrize("key_type", TYPES)
def test_des_keys_from_keys(token, session, key_type):
    value = TYPES[key_type]
    kind = {**OPEN, CKA.KEY_TYPE: ulong(key_type)}
    base = secret_key(token, session, bytes(range(100, 132)), DERIVE=TRUE)
    made = token.get(session, token.derive(session, base, CKM.SHA256_KEY_DERIVATION, kind), CKA.VALUE)
    hashed = hashlib.sha256(bytes(range(100, 132))).digest()[: len(value)]
    assert [byte >> 1 for byte in made] == [byte >> 1 for byte in hashed]
    assert all(byte.bit_count() % 2 for byte in made)
    key = secret_key(token, session, value, key_type, EXTRACTABLE=TRUE)
    for by_type, mechanism, parameter in (
        (CKK.AES, CKM.AES_CBC_PAD, bytes(16)),
        (CKK.AES, CKM.AES_ECB, b""),
        (CKK.DES3, CKM.DES3_ECB, b""),
        (CKK.DES2, CKM.DES3_CBC, IV),
        (CKK.DES3, CKM.DES3_CBC_PAD, IV),
    ):
        by = secret_key(
            token, session, (DES3 + DES2)[: {CKK.AES: 32}.get(by_type, len(TYPES.get(by_type, b"")))], by_type
        )
        wrapped = token.wrap(session, by, key, mechanism, parameter)
        unwrapped = token.unwrap(session, by, mechanism, wrapped, kind, parameter)
        assert token.get(session, unwrapped, CKA.VALUE) == value
