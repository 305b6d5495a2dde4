"""Keys encrypted by keys, compared with another implementation and with the standards' own examples."""

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes, keywrap, padding, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptoki import RO, SO, USER, Rv
from keys import der_signature, public_key, rsa_pair
from parameters import ccm, gcm, oaep, ulongs

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKG, CKK, CKM, CKO, CKR
from p11tpm.crypto import der
from p11tpm.error import Error

SECRET = {CKA.CLASS: ulong(CKO.SECRET_KEY)}
GENERIC = {**SECRET, CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET)}
AES = {**SECRET, CKA.KEY_TYPE: ulong(CKK.AES)}
PRIVATE = {CKA.CLASS: ulong(CKO.PRIVATE_KEY)}
OPEN = {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE}
KEK = bytes(range(32))
VALUE = bytes(range(100, 132))
IV = bytes(range(16))


def created(run, session, value, template):
    return run.create(session, {**template, CKA.VALUE: value, **({} if CKA.EXTRACTABLE in template else OPEN)})


def refused(rv, call, *args, **more):
    with pytest.raises(Rv) as error:
        call(*args, **more)
    assert error.value == rv


def block_cipher(mode):
    def encrypt(data):
        cipher = Cipher(algorithms.AES(KEK), mode).encryptor()
        return cipher.update(data) + cipher.finalize()

    return encrypt


def padded(data):
    padder = padding.PKCS7(128).padder()
    return padder.update(data) + padder.finalize()


def zeros(data):
    return data + bytes(-len(data) % 16)


CBC, CTR = block_cipher(modes.CBC(IV)), block_cipher(modes.CTR(IV))
WRAPPINGS = {
    "ecb": (CKM.AES_ECB, lambda _: b"", lambda data: block_cipher(modes.ECB())(zeros(data))),
    "cbc": (CKM.AES_CBC, lambda _: IV, lambda data: CBC(zeros(data))),
    "cbc-pad": (CKM.AES_CBC_PAD, lambda _: IV, lambda data: CBC(padded(data))),
    "ctr": (CKM.AES_CTR, lambda _: ulongs(128) + IV, CTR),
    "gcm": (CKM.AES_GCM, lambda _: gcm(IV[:12], b"aad"), lambda data: AESGCM(KEK).encrypt(IV[:12], data, b"aad")),
    "ccm": (
        CKM.AES_CCM,
        lambda length: ccm(length, IV[:12], b"aad"),
        lambda data: AESCCM(KEK).encrypt(IV[:12], data, b"aad"),
    ),
    "key-wrap": (CKM.AES_KEY_WRAP, lambda _: b"", lambda data: keywrap.aes_key_wrap(KEK, data)),
    "key-wrap-pad": (CKM.AES_KEY_WRAP_PAD, lambda _: b"", lambda data: keywrap.aes_key_wrap_with_padding(KEK, data)),
    "kwp": (CKM.AES_KEY_WRAP_KWP, lambda _: b"", lambda data: keywrap.aes_key_wrap_with_padding(KEK, data)),
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_secret_keys_by_aes(token, session, proxy, name):
    mechanism, parameter, expected = WRAPPINGS[name]
    by = created(token, session, KEK, AES)
    proxy.clear()
    for value, template in (
        (VALUE, GENERIC),
        (VALUE, AES),
        (VALUE[:16], AES),
        (VALUE[:24], AES),
        (VALUE[:17], GENERIC),
    ):
        key, given = created(token, session, value, template), parameter(len(value))
        if name == "key-wrap" and len(value) % 8:
            refused(CKR.KEY_SIZE_RANGE, token.wrap, session, by, key, mechanism, given)
            continue
        wrapped = token.wrap(session, by, key, mechanism, given)
        assert wrapped == expected(value)
        wanted = {**template, **OPEN}
        if name in {"ecb", "cbc"}:
            given, wanted[CKA.VALUE_LEN] = parameter(len(wrapped)), ulong(len(value))
        if name == "ccm":
            given = parameter(len(value))
        again = token.unwrap(session, by, mechanism, wrapped, wanted, given)
        assert token.get(session, again, CKA.VALUE) == value
        assert token.get(session, again, CKA.VALUE_LEN) == ulong(len(value))
    assert proxy.commands == []


RFC3394 = [
    (
        "000102030405060708090a0b0c0d0e0f",
        "00112233445566778899aabbccddeeff",
        "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5",
    ),
    (
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f",
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21",
    ),
]
RFC5649 = [
    (
        "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8",
        "c37b7e6492584340bed12207808941155068f738",
        "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
    ),
    ("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8", "466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
]


@pytest.mark.parametrize(
    ("mechanism", "kek", "value", "wrapped"),
    [
        *((CKM.AES_KEY_WRAP, *vector) for vector in RFC3394),
        *((CKM.AES_KEY_WRAP_PAD, *vector) for vector in RFC5649),
        *((CKM.AES_KEY_WRAP_KWP, *vector) for vector in RFC5649),
    ],
)
def test_key_wrap_vectors(token, session, mechanism, kek, value, wrapped):
    kek, value, wrapped = map(bytes.fromhex, (kek, value, wrapped))
    by, key = created(token, session, kek, AES), created(token, session, value, GENERIC)
    assert token.wrap(session, by, key, mechanism) == wrapped
    again = token.unwrap(session, by, mechanism, wrapped, {**GENERIC, **OPEN})
    assert token.get(session, again, CKA.VALUE) == value


@pytest.mark.parametrize("mechanism", [CKM.AES_KEY_WRAP, CKM.AES_KEY_WRAP_PAD, CKM.AES_KEY_WRAP_KWP])
def test_the_length_of_an_initial_value_that_is_not_there(token, session, mechanism):
    by, key = created(token, session, KEK, AES), created(token, session, VALUE, GENERIC)
    unset = token.mechanism(mechanism)
    unset.ulParameterLen = 0x80000000
    wrapped = token.bytes_of(lambda out, length: token.C_WrapKey(session, unset, by, key, out, length))
    assert wrapped == token.wrap(session, by, key, mechanism)


# -- RSA: the public operation in software, the private one in the TPM

OAEP_SHA256 = rsa_padding.OAEP(rsa_padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"label")


def test_secret_keys_by_rsa(token, session, proxy):
    public, private = rsa_pair(token, session)
    key, outside = created(token, session, VALUE, AES), public_key(token, session, public)
    oaep_256 = oaep(CKM.SHA256, CKG.MGF1_SHA256, b"label")
    sha1 = rsa_padding.OAEP(rsa_padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    for mechanism, parameter, how in (
        (CKM.RSA_PKCS, b"", rsa_padding.PKCS1v15()),
        (CKM.RSA_PKCS_OAEP, oaep(), sha1),
        (CKM.RSA_PKCS_OAEP, oaep_256, OAEP_SHA256),
    ):
        proxy.clear()
        wrapped = token.wrap(session, public, key, mechanism, parameter)
        assert len(wrapped) == 256
        assert proxy.commands == []
        for data in (wrapped, outside.encrypt(VALUE, how)):
            again = token.unwrap(session, private, mechanism, data, {**AES, **OPEN}, parameter)
            assert token.get(session, again, CKA.VALUE) == VALUE
    big = created(token, session, bytes(250), GENERIC)
    refused(CKR.KEY_SIZE_RANGE, token.wrap, session, public, big, CKM.RSA_PKCS)


def test_raw_rsa(token, session):
    public, private = rsa_pair(token, session)
    numbers = public_key(token, session, public).public_numbers()
    key = created(token, session, VALUE, AES)
    wrapped = token.wrap(session, public, key, CKM.RSA_X_509)
    assert int.from_bytes(wrapped, "big") == pow(int.from_bytes(VALUE, "big"), numbers.e, numbers.n)
    again = token.unwrap(session, private, CKM.RSA_X_509, wrapped, {**AES, **OPEN, CKA.VALUE_LEN: ulong(32)})
    assert token.get(session, again, CKA.VALUE) == VALUE
    whole = token.unwrap(session, private, CKM.RSA_X_509, wrapped, {**GENERIC, **OPEN})
    assert token.get(session, whole, CKA.VALUE) == VALUE.rjust(256, b"\0")
    for template, rv in (
        (AES, CKR.TEMPLATE_INCOMPLETE),
        ({**AES, CKA.VALUE_LEN: ulong(16)}, CKR.WRAPPED_KEY_INVALID),
        ({**GENERIC, CKA.VALUE_LEN: ulong(1)}, CKR.WRAPPED_KEY_INVALID),
        ({**GENERIC, CKA.VALUE_LEN: ulong(257)}, CKR.WRAPPED_KEY_INVALID),
    ):
        refused(rv, token.unwrap, session, private, CKM.RSA_X_509, wrapped, template)


def test_whatever_is_wrong_with_what_rsa_unwraps_is_one_error(token, session):
    public, private = rsa_pair(token, session)
    outside = public_key(token, session, public)
    pkcs1 = rsa_padding.PKCS1v15()
    for data, template in (
        (bytes(255) + b"\x02", AES),
        (outside.encrypt(VALUE[:17], pkcs1), AES),
        (outside.encrypt(b"", pkcs1), GENERIC),
        (outside.encrypt(VALUE, pkcs1), {**AES, CKA.VALUE_LEN: ulong(16)}),
        (outside.encrypt(VALUE, OAEP_SHA256), AES),
        (b"\xff" * 256, AES),
    ):
        refused(CKR.WRAPPED_KEY_INVALID, token.unwrap, session, private, CKM.RSA_PKCS, data, template)
    for data in (b"", bytes(255), bytes(257)):
        refused(CKR.WRAPPED_KEY_LEN_RANGE, token.unwrap, session, private, CKM.RSA_PKCS, data, AES)


# -- private keys


@pytest.mark.parametrize("name", ["cbc-pad", "ctr", "gcm", "key-wrap-pad", "kwp"])
def test_private_keys_by_aes(token, session, name):
    mechanism, parameter, encrypt = WRAPPINGS[name]
    by = created(token, session, KEK, AES)
    key = ec.generate_private_key(ec.SECP256R1())
    wrapped = encrypt(pkcs8(key))
    template = {**PRIVATE, CKA.KEY_TYPE: ulong(CKK.EC), CKA.LABEL: b"unwrapped"}
    unwrapped = token.unwrap(session, by, mechanism, wrapped, template, parameter(len(wrapped)))
    signature = token.sign(session, unwrapped, CKM.ECDSA_SHA256, b"message")
    key.public_key().verify(der_signature(signature), b"message", ec.ECDSA(hashes.SHA256()))
    for type_, value in (
        (CKA.LOCAL, FALSE),
        (CKA.SENSITIVE, TRUE),
        (CKA.EXTRACTABLE, TRUE),
        (CKA.ALWAYS_SENSITIVE, FALSE),
        (CKA.NEVER_EXTRACTABLE, FALSE),
        (CKA.LABEL, b"unwrapped"),
    ):
        assert token.get(session, unwrapped, type_) == value
    refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, unwrapped, CKA.VALUE)


def pkcs8(key):
    formats = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8
    return key.private_bytes(*formats, serialization.NoEncryption())


def test_an_rsa_private_key(token, session):
    by, key = created(token, session, KEK, AES), rsa.generate_private_key(65537, 2048)
    wrapped = keywrap.aes_key_wrap_with_padding(KEK, pkcs8(key))
    template = {**PRIVATE, CKA.KEY_TYPE: ulong(CKK.RSA), CKA.TOKEN: TRUE}
    unwrapped = token.unwrap(session, by, CKM.AES_KEY_WRAP_PAD, wrapped, template)
    signature = token.sign(session, unwrapped, CKM.SHA256_RSA_PKCS, b"message")
    key.public_key().verify(signature, b"message", rsa_padding.PKCS1v15(), hashes.SHA256())
    secret = token.unwrap(
        session, unwrapped, CKM.RSA_PKCS, key.public_key().encrypt(VALUE, rsa_padding.PKCS1v15()), {**AES, **OPEN}
    )
    assert token.get(session, secret, CKA.VALUE) == VALUE


def test_private_keys_that_are_none(token, session):
    by = created(token, session, KEK, AES)
    good = pkcs8(ec.generate_private_key(ec.SECP256R1()))
    wanted = {**PRIVATE, CKA.KEY_TYPE: ulong(CKK.EC)}

    def unwrap(data, template):
        return token.unwrap(session, by, CKM.AES_KEY_WRAP_PAD, keywrap.aes_key_wrap_with_padding(KEK, data), template)

    zero = good.replace(der.private_numbers(good)[CKA.VALUE], bytes(32))
    for data, template, rv in (
        (b"x", wanted, CKR.WRAPPED_KEY_INVALID),
        (good[:-1], wanted, CKR.WRAPPED_KEY_INVALID),
        (good + b"\0", wanted, CKR.WRAPPED_KEY_INVALID),
        (zero, wanted, CKR.WRAPPED_KEY_INVALID),
        (good, {**PRIVATE, CKA.KEY_TYPE: ulong(CKK.RSA)}, CKR.WRAPPED_KEY_INVALID),
        (good, {**wanted, CKA.EXTRACTABLE: b"\2"}, CKR.ATTRIBUTE_VALUE_INVALID),
        (good, {**wanted, CKA.VALUE: bytes(32)}, CKR.ATTRIBUTE_READ_ONLY),
        (good, {**wanted, CKA.CLASS: ulong(CKO.DATA)}, CKR.TEMPLATE_INCONSISTENT),
        (good, PRIVATE, CKR.TEMPLATE_INCOMPLETE),
        (pkcs8(ec.generate_private_key(ec.SECP256K1())), wanted, CKR.CURVE_NOT_SUPPORTED),
    ):
        refused(rv, unwrap, data, template)


def test_pkcs8_is_read_as_another_implementation_writes_it():
    for curve in (ec.SECP224R1(), ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()):
        key = ec.generate_private_key(curve)
        numbers = der.private_numbers(pkcs8(key))
        size = (curve.key_size + 7) // 8
        assert numbers[CKA.VALUE] == key.private_numbers().private_value.to_bytes(size, "big")
        form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        assert numbers[CKA.EC_POINT].endswith(key.public_key().public_bytes(*form))
    key = rsa.generate_private_key(65537, 2048)
    numbers, wanted = der.private_numbers(pkcs8(key)), key.private_numbers()
    for type_, number in (
        (CKA.MODULUS, wanted.public_numbers.n),
        (CKA.PUBLIC_EXPONENT, wanted.public_numbers.e),
        (CKA.PRIVATE_EXPONENT, wanted.d),
        (CKA.PRIME_1, wanted.p),
        (CKA.PRIME_2, wanted.q),
        (CKA.EXPONENT_1, wanted.dmp1),
        (CKA.EXPONENT_2, wanted.dmq1),
        (CKA.COEFFICIENT, wanted.iqmp),
    ):
        assert int.from_bytes(numbers[type_], "big") == number
    for bad in (b"", b"0\x00", pkcs8(key)[:-1], bytes(100)):
        with pytest.raises(Error) as error:
            der.private_numbers(bad)
        assert error.value.rv == CKR.WRAPPED_KEY_INVALID


# -- what may leave, in whose hands


def test_keys_that_stay(token, session):
    by, data = created(token, session, KEK, AES), token.create(session, {CKA.CLASS: ulong(CKO.DATA)})
    public, private = rsa_pair(token, session)
    stays = created(token, session, VALUE, {**AES, CKA.EXTRACTABLE: FALSE})
    picky = created(token, session, VALUE, {**AES, **OPEN, CKA.WRAP_WITH_TRUSTED: TRUE})
    weak = created(token, session, KEK, {**AES, **OPEN, CKA.WRAP: FALSE, CKA.UNWRAP: FALSE})
    key = created(token, session, VALUE, AES)
    wrap, mechanism = token.wrap, CKM.AES_KEY_WRAP
    for wrapping, wrapped, how, rv in (
        (by, stays, mechanism, CKR.KEY_UNEXTRACTABLE),
        (by, private, mechanism, CKR.KEY_UNEXTRACTABLE),
        (by, public, mechanism, CKR.KEY_NOT_WRAPPABLE),
        (by, data, mechanism, CKR.KEY_NOT_WRAPPABLE),
        (by, picky, mechanism, CKR.KEY_NOT_WRAPPABLE),
        (by, 99, mechanism, CKR.KEY_HANDLE_INVALID),
        (99, key, mechanism, CKR.WRAPPING_KEY_HANDLE_INVALID),
        (weak, key, mechanism, CKR.KEY_FUNCTION_NOT_PERMITTED),
        (public, key, mechanism, CKR.WRAPPING_KEY_TYPE_INCONSISTENT),
        (private, key, CKM.RSA_PKCS, CKR.WRAPPING_KEY_TYPE_INCONSISTENT),
        (by, key, CKM.RSA_PKCS, CKR.WRAPPING_KEY_TYPE_INCONSISTENT),
        (by, key, CKM.AES_CMAC, CKR.MECHANISM_INVALID),
        (by, key, CKM.AES_CBC, CKR.MECHANISM_PARAM_INVALID),
    ):
        refused(rv, wrap, session, wrapping, wrapped, how)
    unwrap, wrapped = token.unwrap, wrap(session, by, key, mechanism)
    for unwrapping, how, rv in (
        (99, mechanism, CKR.UNWRAPPING_KEY_HANDLE_INVALID),
        (weak, mechanism, CKR.KEY_FUNCTION_NOT_PERMITTED),
        (public, CKM.RSA_PKCS, CKR.UNWRAPPING_KEY_TYPE_INCONSISTENT),
        (private, mechanism, CKR.UNWRAPPING_KEY_TYPE_INCONSISTENT),
        (by, CKM.AES_CMAC, CKR.MECHANISM_INVALID),
    ):
        refused(rv, unwrap, session, unwrapping, how, wrapped, AES)


def test_attributes_of_an_unwrapped_key(token, session):
    by, key = created(token, session, KEK, AES), created(token, session, VALUE, AES)
    wrapped = token.wrap(session, by, key, CKM.AES_KEY_WRAP)
    template = {**AES, CKA.TOKEN: TRUE, CKA.LABEL: b"unwrapped"}
    again = token.unwrap(session, by, CKM.AES_KEY_WRAP, wrapped, template)
    assert token.find(session, {CKA.LABEL: b"unwrapped"}) == [again]
    for type_, value in (
        (CKA.LOCAL, FALSE),
        (CKA.KEY_GEN_MECHANISM, b"\xff" * 8),
        (CKA.SENSITIVE, FALSE),
        (CKA.EXTRACTABLE, TRUE),
        (CKA.ALWAYS_SENSITIVE, FALSE),
        (CKA.NEVER_EXTRACTABLE, FALSE),
        (CKA.VALUE_LEN, ulong(32)),
    ):
        assert token.get(session, again, type_) == value
    assert token.get(session, again, CKA.VALUE) == VALUE
    stays = token.unwrap(session, by, CKM.AES_KEY_WRAP, wrapped, {**template, CKA.EXTRACTABLE: FALSE})
    refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, stays, CKA.VALUE)


def test_templates_and_data_that_do_not_fit(token, session):
    by = created(token, session, KEK, AES)
    wrapped = keywrap.aes_key_wrap(KEK, VALUE)
    unwrap = token.unwrap
    for template, rv in (
        (SECRET, CKR.TEMPLATE_INCOMPLETE),
        ({CKA.KEY_TYPE: ulong(CKK.AES)}, CKR.TEMPLATE_INCOMPLETE),
        ({**SECRET, CKA.KEY_TYPE: ulong(CKK.RSA)}, CKR.ATTRIBUTE_VALUE_INVALID),
        ({**AES, CKA.VALUE: VALUE}, CKR.ATTRIBUTE_READ_ONLY),
        ({**AES, CKA.VALUE_LEN: ulong(5)}, CKR.ATTRIBUTE_VALUE_INVALID),
        ({**AES, CKA.VALUE_LEN: ulong(16)}, CKR.WRAPPED_KEY_INVALID),
        ({**AES, CKA.SUBJECT: b""}, CKR.ATTRIBUTE_TYPE_INVALID),
    ):
        refused(rv, unwrap, session, by, CKM.AES_KEY_WRAP, wrapped, template)
    for data, rv in (
        (wrapped[:-1] + bytes((wrapped[-1] ^ 1,)), CKR.WRAPPED_KEY_INVALID),
        (keywrap.aes_key_wrap(KEK, bytes(40)), CKR.WRAPPED_KEY_INVALID),
        (wrapped[:-1], CKR.WRAPPED_KEY_LEN_RANGE),
        (b"", CKR.WRAPPED_KEY_LEN_RANGE),
    ):
        refused(rv, unwrap, session, by, CKM.AES_KEY_WRAP, data, AES)
    for data in (CBC(bytes(32)), CBC(padded(VALUE[:17]))):
        refused(CKR.WRAPPED_KEY_INVALID, unwrap, session, by, CKM.AES_CBC_PAD, data, AES, IV)


def test_what_is_unwrapped_is_not_cut_into_pieces_that_can_be_tried(token, session):
    """Only the zeros that wrapping without padding adds are taken off again."""
    by = created(token, session, KEK, AES)
    for data, length, rv in (
        (VALUE, 31, CKR.WRAPPED_KEY_INVALID),
        (VALUE[:16] + bytes(16), 16, CKR.WRAPPED_KEY_INVALID),
        (VALUE[:17] + bytes(15), 17, None),
        (VALUE[:17] + bytes(15), 16, CKR.WRAPPED_KEY_INVALID),
        (VALUE[:17] + bytes(15), 33, CKR.WRAPPED_KEY_INVALID),
    ):
        template = {**GENERIC, **OPEN, CKA.VALUE_LEN: ulong(length)}
        if rv is None:
            key = token.unwrap(session, by, CKM.AES_CBC, CBC(data), template, IV)
            assert token.get(session, key, CKA.VALUE) == data[:length]
        else:
            refused(rv, token.unwrap, session, by, CKM.AES_CBC, CBC(data), template, IV)


def test_a_length_query_and_a_small_buffer(token, session):
    by, key = created(token, session, KEK, AES), created(token, session, VALUE, AES)
    given, length, null = token.mechanism(CKM.AES_KEY_WRAP), token.ulong(), token.ffi.NULL
    token.C_WrapKey(session, given, by, key, null, length)
    assert length[0] == 40
    length[0], out = 39, token.ffi.new("CK_BYTE[]", 40)
    assert token.raw.C_WrapKey(session, given, by, key, out, length) == CKR.BUFFER_TOO_SMALL
    assert length[0] == 40
    assert token.raw.C_WrapKey(session, given, by, key, out, null) == CKR.ARGUMENTS_BAD
    assert token.raw.C_WrapKey(session, null, by, key, out, length) == CKR.ARGUMENTS_BAD
    token.C_WrapKey(session, given, by, key, out, length)
    assert bytes(token.ffi.buffer(out, 40)) == keywrap.aes_key_wrap(KEK, VALUE)


def test_sessions_without_a_login(token):
    session, public = token.open(token.slots()[0], RO), {CKA.PRIVATE: FALSE}
    by, key = created(token, session, KEK, {**AES, **public}), created(token, session, VALUE, {**AES, **public})
    wrapped = token.wrap(session, by, key, CKM.AES_KEY_WRAP)
    again = token.unwrap(session, by, CKM.AES_KEY_WRAP, wrapped, {**AES, **OPEN, **public})
    assert hashlib.sha256(token.get(session, again, CKA.VALUE)).digest() == hashlib.sha256(VALUE).digest()
    refused(CKR.USER_NOT_LOGGED_IN, token.unwrap, session, by, CKM.AES_KEY_WRAP, wrapped, AES)
    kept = {**AES, **public, CKA.TOKEN: TRUE}
    refused(CKR.SESSION_READ_ONLY, token.unwrap, session, by, CKM.AES_KEY_WRAP, wrapped, kept)


def test_a_key_for_trusted_keys_is_wrapped_by_what_the_so_trusts(token, session):
    by, private = rsa_pair(token, session)
    template = {**AES, **OPEN, CKA.TOKEN: TRUE, CKA.WRAP_WITH_TRUSTED: TRUE}
    key = created(token, session, VALUE, template)
    refused(CKR.KEY_NOT_WRAPPABLE, token.wrap, session, by, key, CKM.RSA_PKCS)
    refused(CKR.ATTRIBUTE_READ_ONLY, token.set, session, by, {CKA.TRUSTED: TRUE})
    refused(CKR.ATTRIBUTE_READ_ONLY, token.set, session, key, {CKA.WRAP_WITH_TRUSTED: FALSE})
    token.logout(session)
    token.login(session, SO, b"so-secret")
    token.set(session, by, {CKA.TRUSTED: TRUE})
    token.logout(session)
    token.login(session, USER, b"123456")
    (key,) = token.find(session, {CKA.CLASS: ulong(CKO.SECRET_KEY)})
    (private,) = token.find(session, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)})
    wrapped = token.wrap(session, by, key, CKM.RSA_PKCS)
    again = token.unwrap(session, private, CKM.RSA_PKCS, wrapped, {**AES, **OPEN})
    assert token.get(session, again, CKA.VALUE) == VALUE


def test_malformed_calls(token, session):
    by, null, handle = created(token, session, KEK, AES), token.ffi.NULL, token.ulong()
    given, (template, count) = token.mechanism(CKM.AES_KEY_WRAP), token.template(AES)
    raw, data = token.raw, bytes(40)
    for call, rv in (
        (lambda: raw.C_UnwrapKey(session, null, by, data, 40, template, count, handle), CKR.ARGUMENTS_BAD),
        (lambda: raw.C_UnwrapKey(session, given, by, null, 40, template, count, handle), CKR.ARGUMENTS_BAD),
        (lambda: raw.C_UnwrapKey(session, given, by, data, 40, null, 2, handle), CKR.ARGUMENTS_BAD),
        (lambda: raw.C_UnwrapKey(session, given, by, data, 40, template, count, null), CKR.ARGUMENTS_BAD),
        (lambda: raw.C_UnwrapKey(session, given, by, data, 1 << 40, template, 2, handle), CKR.WRAPPED_KEY_LEN_RANGE),
        (lambda: raw.C_UnwrapKey(99, given, by, data, 40, template, count, handle), CKR.SESSION_HANDLE_INVALID),
        (lambda: raw.C_DeriveKey(session, null, by, template, count, handle), CKR.ARGUMENTS_BAD),
        (lambda: raw.C_DeriveKey(session, given, by, null, 2, handle), CKR.ARGUMENTS_BAD),
        (lambda: raw.C_DeriveKey(session, given, by, template, count, null), CKR.ARGUMENTS_BAD),
        (lambda: raw.C_DeriveKey(99, given, by, template, count, handle), CKR.SESSION_HANDLE_INVALID),
        (lambda: raw.C_WrapKey(99, given, by, by, null, handle), CKR.SESSION_HANDLE_INVALID),
    ):
        assert call() == rv
    assert handle[0] == 0
