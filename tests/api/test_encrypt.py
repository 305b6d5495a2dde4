"""AES: published vectors, another implementation, and the rules of calls that give data back."""

import os

import pytest
from ciphers import IV, aes, fails, in_parts, pad, software
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptoki import RO
from parameters import ccm, ctr, gcm

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKM, CKR

NIST_KEY = "2b7e151628aed2a6abf7158809cf4f3c"
NIST = (
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
GCM_KEY, GCM_AAD = "feffe9928665731c6d6a8f9467308308", bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
GCM_PLAIN = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
LONG_NONCE = (
    "9313225df88406e555909c5aff5269aa6a7a9538534f7da1e4c303d2a318a728"
    "c3c0c95156809539fcf0e2429a6b525416aedbf5a0de6a57a637b39b"
)


def n(text):
    return bytes.fromhex(text)


VECTORS = {  # name: mechanism, parameter, key, plain, encrypted
    "SP 800-38A F.1.1": (
        *(CKM.AES_ECB, lambda: b"", NIST_KEY, NIST),
        (
            "3ad77bb40d7a3660a89ecaf32466ef97f5d3d58503b9699de785895a96fdbaaf"
            "43b1cd7f598ece23881b00e3ed0306887b0c785e27e8ad3f8223207104725dd4"
        ),
    ),
    "SP 800-38A F.2.1": (
        *(CKM.AES_CBC, lambda: IV, NIST_KEY, NIST),
        (
            "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2"
            "73bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7"
        ),
    ),
    "SP 800-38A F.3.13": (
        *(CKM.AES_CFB128, lambda: IV, NIST_KEY, NIST),
        (
            "3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b"
            "26751f67a3cbb140b1808cf187a4f4dfc04b05357c5d1c0eeac4c66f9ff7f2e6"
        ),
    ),
    "SP 800-38A F.5.1": (
        *(CKM.AES_CTR, lambda: ctr(128, n("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")), NIST_KEY, NIST),
        (
            "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
            "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
        ),
    ),
    "RFC 3686 1": (
        *(CKM.AES_CTR, lambda: ctr(32, n("00000030000000000000000000000001")), "ae6852f8121067cc4bf7a5765577f39e"),
        *("53696e676c6520626c6f636b206d7367", "e4095d4fb7a7b3792d6175a3261311b8"),
    ),
    "GCM 4": (
        *(CKM.AES_GCM, lambda: gcm(n("cafebabefacedbaddecaf888"), GCM_AAD), GCM_KEY, GCM_PLAIN),
        (
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
            "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47"
        ),
    ),
    "GCM 5": (
        *(CKM.AES_GCM, lambda: gcm(n("cafebabefacedbad"), GCM_AAD), GCM_KEY, GCM_PLAIN),
        (
            "61353b4c2806934a777ff51fa22a4755699b2a714fcdc6f83766e5f97b6c7423"
            "73806900e49f24b22b097544d4896b424989b5e1ebac0f07c23f45983612d2e79e3b0785561be14aaca2fccb"
        ),
    ),
    "GCM 6": (
        *(CKM.AES_GCM, lambda: gcm(n(LONG_NONCE), GCM_AAD), GCM_KEY, GCM_PLAIN),
        (
            "8ce24998625615b603a033aca13fb894be9112a5c3a211a8ba262a3cca7e2ca7"
            "01e4a9a4fba43c90ccdcb281d48c7c6fd62875d2aca417034c34aee5619cc5aefffe0bfa462af43c1699d050"
        ),
    ),
    "SP 800-38C 1": (
        *(CKM.AES_CCM, lambda: ccm(4, n("10111213141516"), bytes(range(8)), 4), bytes(range(0x40, 0x50)).hex()),
        *("20212223", "7162015b4dac255d"),
    ),
    "SP 800-38C 3": (
        *(CKM.AES_CCM, lambda: ccm(24, bytes(range(0x10, 0x1C)), bytes(range(20)), 8), bytes(range(0x40, 0x50)).hex()),
        *(bytes(range(0x20, 0x38)).hex(), "e3b201a9f5b71a7a9b1ceaeccd97e70b6176aad9a4428aa5484392fbc1b09951"),
    ),
    "RFC 3394 4.1": (
        *(CKM.AES_KEY_WRAP, lambda: b"", bytes(range(16)).hex(), "00112233445566778899aabbccddeeff"),
        "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5",
    ),
    "RFC 3394 4.6": (
        *(CKM.AES_KEY_WRAP, lambda: n("a6a6a6a6a6a6a6a6"), bytes(range(32)).hex()),
        "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f",
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21",
    ),
    "RFC 5649 6.1": (
        *(CKM.AES_KEY_WRAP_PAD, lambda: b"", "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8"),
        "c37b7e6492584340bed12207808941155068f738",
        "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
    ),
    "RFC 5649 6.2": (
        *(CKM.AES_KEY_WRAP_KWP, lambda: n("a65959a6"), "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8"),
        *("466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
    ),
}
MODES = {  # a parameter for each mechanism and what comes of data by cryptography
    CKM.AES_ECB: (b"", lambda key, data: software(key, modes.ECB(), data)),
    CKM.AES_CBC: (IV, lambda key, data: software(key, modes.CBC(IV), data)),
    CKM.AES_CBC_PAD: (IV, lambda key, data: software(key, modes.CBC(IV), pad(data))),
    CKM.AES_CTR: (ctr(128, IV), lambda key, data: software(key, modes.CTR(IV), data)),
    CKM.AES_GCM: (gcm(IV[:12], b"aad", 120), lambda key, data: AESGCM(key).encrypt(IV[:12], data, b"aad")[:-1]),
    CKM.AES_KEY_WRAP: (b"", keywrap.aes_key_wrap),
    CKM.AES_KEY_WRAP_PAD: (b"", keywrap.aes_key_wrap_with_padding),
}


@pytest.fixture
def public(token):
    """A read-only session without a login; keys that are not private."""
    handle = token.open(token.slots()[0], RO)
    key = aes(token, handle, with_={CKA.PRIVATE: FALSE})
    return handle, key


@pytest.mark.parametrize("name", VECTORS)
def test_published_vectors(token, session, name):
    mechanism, parameter, value, plain, encrypted = VECTORS[name]
    parameter, plain, encrypted = parameter(), n(plain), n(encrypted)
    key = aes(token, session, n(value))
    for size in (None, 1, 7, 16, 17, 40):
        if size is None:
            assert encrypted == token.crypt("Encrypt", session, key, mechanism, plain, parameter)
            assert plain == token.crypt("Decrypt", session, key, mechanism, encrypted, parameter)
        else:
            given = token.crypt_parts("Encrypt", session, key, mechanism, in_parts(plain, size), parameter)
            assert encrypted == b"".join(given)
            given = token.crypt_parts("Decrypt", session, key, mechanism, in_parts(encrypted, size), parameter)
            assert plain == b"".join(given)


@pytest.mark.parametrize("mechanism", MODES)
@pytest.mark.parametrize("bits", [128, 192, 256])
def test_every_mode_as_cryptography_does_it(token, session, mechanism, bits):
    parameter, reference = MODES[mechanism]
    value = os.urandom(bits // 8)
    key = aes(token, session, value)
    for length in (0, 1, 15, 16, 17, 32, 100, 4096):
        data = os.urandom(length)
        try:
            expected = reference(value, data)
        except ValueError:
            fails(CKR.DATA_LEN_RANGE, token.crypt, "Encrypt", session, key, mechanism, data, parameter)
            continue
        assert expected == token.crypt("Encrypt", session, key, mechanism, data, parameter)
        assert data == token.crypt("Decrypt", session, key, mechanism, expected, parameter)
        for parts in (in_parts(data, 13), [b"", *in_parts(data, 32), b""]):
            assert expected == b"".join(token.crypt_parts("Encrypt", session, key, mechanism, parts, parameter))
        for parts in (in_parts(expected, 13), [b"", *in_parts(expected, 32), b""]):
            assert data == b"".join(token.crypt_parts("Decrypt", session, key, mechanism, parts, parameter))


def test_a_token_key_and_a_generated_key(token, session, proxy):
    value = os.urandom(32)
    kept = aes(token, session, value, with_={CKA.TOKEN: TRUE, CKA.DERIVE: TRUE})
    proxy.clear()
    encrypted = token.crypt("Encrypt", session, kept, CKM.AES_CBC_PAD, b"data", IV)
    assert software(value, modes.CBC(IV), pad(b"data")) == encrypted
    assert proxy.commands == []
    made = token.ulong()
    template = token.template({CKA.VALUE_LEN: ulong(24)})
    token.C_GenerateKey(session, token.mechanism(CKM.AES_KEY_GEN), *template, made)
    encrypted = token.crypt("Encrypt", session, made[0], CKM.AES_CBC_PAD, b"data", IV)
    assert token.crypt("Decrypt", session, made[0], CKM.AES_CBC_PAD, encrypted, IV) == b"data"


def test_public_keys_work_without_a_login_and_without_the_tpm(token, public, proxy):
    session, key = public
    proxy.clear()
    encrypted = token.crypt("Encrypt", session, key, CKM.AES_GCM, b"data", gcm(bytes(12)))
    assert AESGCM(bytes(range(16))).encrypt(bytes(12), b"data", None) == encrypted
    assert token.crypt("Decrypt", session, key, CKM.AES_GCM, encrypted, gcm(bytes(12))) == b"data"
    assert proxy.commands == []


# -- CTR


def counter_stream(value, block, bits, length):
    number, stream = int.from_bytes(block, "big"), b""
    ecb = Cipher(algorithms.AES(value), modes.ECB()).encryptor()
    while len(stream) < length:
        stream += ecb.update(number.to_bytes(16, "big"))
        low = (number + 1) % (1 << bits)
        number = number >> bits << bits | low
    return stream[:length]


@pytest.mark.parametrize(
    ("bits", "block"),
    [(8, IV), (7, bytes(15) + b"\x2e"), (32, b"\xff" * 14 + b"\0\xfe"), (64, b"\xff" * 8 + bytes(6) + b"\xff\xfe")],
)
@pytest.mark.parametrize("size", [1300, 16, 33])
def test_the_counter_alone_is_counted(token, session, bits, block, size):
    value, data = bytes(range(32)), bytes(1300)
    key = aes(token, session, value)
    parameter = ctr(bits, block)
    given = token.crypt_parts("Encrypt", session, key, CKM.AES_CTR, in_parts(data, size), parameter)
    assert counter_stream(value, block, bits, 1300) == b"".join(given)
    given = token.crypt("Decrypt", session, key, CKM.AES_CTR, b"".join(given), parameter)
    assert data == given


def test_a_counter_that_is_used_up(token, session):
    """The last value may be used, and nothing after it (Current Mechanisms 3.0, clause 2.10)."""
    key = aes(token, session)
    block = b"\xf0" * 15
    for bits, start, blocks in ((2, 1, 3), (8, 0xF0, 16), (8, 0xFF, 1), (8, 0, 256), (1, 0xFF, 1), (128, 0xF0, None)):
        begin = block + bytes((start,)) if blocks else b"\xff" * 16
        most, parameter = 16 * (blocks or 1), ctr(bits, begin)
        expected = counter_stream(bytes(range(16)), begin, bits, most)
        for way in ("Encrypt", "Decrypt"):
            assert expected == token.crypt(way, session, key, CKM.AES_CTR, bytes(most), parameter)
            fails(CKR.DATA_LEN_RANGE, token.crypt, way, session, key, CKM.AES_CTR, bytes(most + 1), parameter)
            parts = [bytes(most - 1), b"1", b""]
            token.crypt_parts(way, session, key, CKM.AES_CTR, parts, parameter)
            fails(CKR.DATA_LEN_RANGE, token.crypt_parts, way, session, key, CKM.AES_CTR, [*parts, b"1"], parameter)


# -- GCM and CCM


@pytest.mark.parametrize("bits", [32, 64, 96, 104, 112, 120, 128])
@pytest.mark.parametrize("length", [1, 7, 12, 16, 128, 129, 1000])
def test_gcm_with_nonces_and_tags_of_any_length(token, session, bits, length):
    value, nonce = bytes(range(16)), os.urandom(length)
    key = aes(token, session, value)
    parameter = gcm(nonce, b"more", bits)
    encrypted = token.crypt("Encrypt", session, key, CKM.AES_GCM, b"some data", parameter)
    if 8 <= length <= 128:
        assert AESGCM(value).encrypt(nonce, b"some data", b"more")[: 9 + bits // 8] == encrypted
    assert token.crypt("Decrypt", session, key, CKM.AES_GCM, encrypted, parameter) == b"some data"
    for at in (0, 8, len(encrypted) - 1):
        changed = bytearray(encrypted)
        changed[at] ^= 1
        fails(CKR.ENCRYPTED_DATA_INVALID, token.crypt, "Decrypt", session, key, CKM.AES_GCM, bytes(changed), parameter)
    other = gcm(nonce, b"less", bits)
    fails(CKR.ENCRYPTED_DATA_INVALID, token.crypt, "Decrypt", session, key, CKM.AES_GCM, encrypted, other)


def test_gcm_gives_no_plain_text_before_the_tag_was_seen(token, session):
    key = aes(token, session)
    data = os.urandom(500)
    encrypted = AESGCM(bytes(range(16))).encrypt(bytes(12), data, None)
    parts = in_parts(encrypted, 100)
    assert [b""] * len(parts) + [data] == token.crypt_parts("Decrypt", session, key, CKM.AES_GCM, parts, gcm(bytes(12)))
    parts[-1] = bytes(len(parts[-1]))
    fails(
        CKR.ENCRYPTED_DATA_INVALID,
        *(token.crypt_parts, "Decrypt", session, key, CKM.AES_GCM, parts, gcm(bytes(12))),
    )
    fails(CKR.ENCRYPTED_DATA_LEN_RANGE, token.crypt, "Decrypt", session, key, CKM.AES_GCM, bytes(15), gcm(bytes(12)))


@pytest.mark.parametrize("tag", [4, 6, 16])
@pytest.mark.parametrize("length", [0, 1, 16, 1000])
def test_ccm_as_cryptography_does_it(token, session, tag, length):
    key, data = aes(token, session), os.urandom(length)
    parameter = ccm(length, IV[:11], b"aad", tag)
    expected = AESCCM(bytes(range(16)), tag).encrypt(IV[:11], data, b"aad")
    assert expected == token.crypt("Encrypt", session, key, CKM.AES_CCM, data, parameter)
    assert data == token.crypt("Decrypt", session, key, CKM.AES_CCM, expected, parameter)
    wrong = expected[:-1] + bytes([expected[-1] ^ 1])
    fails(CKR.ENCRYPTED_DATA_INVALID, token.crypt, "Decrypt", session, key, CKM.AES_CCM, wrong, parameter)
    more = ccm(length + 1, IV[:11], b"aad", tag)
    fails(CKR.DATA_LEN_RANGE, token.crypt, "Encrypt", session, key, CKM.AES_CCM, data, more)
    fails(CKR.ENCRYPTED_DATA_LEN_RANGE, token.crypt, "Decrypt", session, key, CKM.AES_CCM, expected, more)


IMPOSSIBLE = {
    "CBC without IV": (CKM.AES_CBC, b""),
    "CBC with a short IV": (CKM.AES_CBC_PAD, IV[:15]),
    "CTR with too many bits": (CKM.AES_CTR, ctr(129, IV)),
    "CTR without bits": (CKM.AES_CTR, ctr(0, IV)),
    "GCM without IV": (CKM.AES_GCM, gcm(b"")),
    "GCM with a short tag": (CKM.AES_GCM, gcm(bytes(12), tag=24)),
    "GCM with a long tag": (CKM.AES_GCM, gcm(bytes(12), tag=129)),
    "CCM with a short nonce": (CKM.AES_CCM, ccm(1, bytes(6))),
    "CCM with more data than counted": (CKM.AES_CCM, ccm(1 << 16, bytes(13))),
    "key wrap with a short IV": (CKM.AES_KEY_WRAP, bytes(7)),
    "padded key wrap with a long IV": (CKM.AES_KEY_WRAP_PAD, bytes(8)),
}


@pytest.mark.parametrize(("mechanism", "parameter"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_parameters_that_can_not_be(token, session, mechanism, parameter):
    key = aes(token, session)
    for way in ("Encrypt", "Decrypt"):
        fails(CKR.MECHANISM_PARAM_INVALID, token.crypt, way, session, key, mechanism, b"", parameter)


# -- what was not encrypted like this


def test_wrong_padding(token, session):
    key = aes(token, session)
    for block in (
        bytes(16),
        bytes(15) + b"\x11",
        bytes(14) + b"\x01\x02",
        bytes([17] * 16),
        bytes(13) + b"\x02\x03\x03",
    ):
        encrypted = software(bytes(range(16)), modes.CBC(IV), bytes(16) + block)
        for call, data in ((token.crypt, encrypted), (token.crypt_parts, in_parts(encrypted, 16))):
            fails(CKR.ENCRYPTED_DATA_INVALID, call, "Decrypt", session, key, CKM.AES_CBC_PAD, data, IV)


@pytest.mark.parametrize(
    "mechanism", [CKM.AES_ECB, CKM.AES_CBC, CKM.AES_CBC_PAD, CKM.AES_KEY_WRAP, CKM.AES_KEY_WRAP_KWP]
)
def test_wrong_lengths(token, session, mechanism):
    key = aes(token, session)
    parameter = IV if mechanism in {CKM.AES_CBC, CKM.AES_CBC_PAD} else b""
    for length in (1, 15, 17, 31):
        call = "Decrypt", session, key, mechanism
        fails(CKR.ENCRYPTED_DATA_LEN_RANGE, token.crypt, *call, bytes(length), parameter)
        fails(CKR.ENCRYPTED_DATA_LEN_RANGE, token.crypt_parts, *call, [bytes(length)], parameter)


def test_key_wrapping_of_something_else(token, session):
    key = aes(token, session)
    for mechanism in (CKM.AES_KEY_WRAP, CKM.AES_KEY_WRAP_PAD):
        for length in (16, 24, 40)[mechanism == CKM.AES_KEY_WRAP :]:
            fails(CKR.ENCRYPTED_DATA_INVALID, token.crypt, "Decrypt", session, key, mechanism, bytes(length))
    ecb = Cipher(algorithms.AES(bytes(range(16))), modes.ECB()).encryptor()
    for length, rest in ((0, bytes(8)), (9, bytes(8)), (3, b"abc" + bytes(4) + b"x"), (1 << 31, bytes(8))):
        block = ecb.update(n("a65959a6") + length.to_bytes(4, "big") + rest)
        fails(CKR.ENCRYPTED_DATA_INVALID, token.crypt, "Decrypt", session, key, CKM.AES_KEY_WRAP_PAD, block)
