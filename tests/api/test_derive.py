"""Keys from keys: values that other implementations and the standards give, and what becomes of the attributes."""

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptoki import Rv
from parameters import cbc_data, ecdh, hkdf, pointer, string, ulongs

from p11tpm.algorithm import CURVES
from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKD, CKK, CKM, CKO, CKR
from p11tpm.parameter import HASHES

EC = {"p192": ec.SECP192R1, "p224": ec.SECP224R1, "p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}
OPEN = {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE}
SECRET = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET)}
BASE = bytes(range(100, 132))
DATA = bytes(range(48))


def created(run, session, value=BASE, key_type=CKK.GENERIC_SECRET, **more):
    given = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(key_type), CKA.VALUE: value, CKA.DERIVE: TRUE}
    return run.create(session, {**given, **OPEN, **more.get("template", {})})


def generated(run, session, length=32, template=None):
    given = {CKA.VALUE_LEN: ulong(length), CKA.DERIVE: TRUE, **(template or {})}
    handle = run.ulong()
    mechanism = run.mechanism(CKM.GENERIC_SECRET_KEY_GEN)
    run.C_GenerateKey(session, mechanism, *run.template(given), handle)
    return handle[0]


def agreement_key(run, session, curve="p256"):
    """Make a key pair for key agreement and give the private key and the public one, as cryptography has it."""
    public = {CKA.EC_PARAMS: CURVES[curve].params}
    handles = run.generate_pair(session, CKM.EC_KEY_PAIR_GEN, public, {CKA.DERIVE: TRUE})
    size = CURVES[curve].size
    point = run.get(session, handles[0], CKA.EC_POINT)[-(1 + 2 * size) :]
    return handles[1], ec.EllipticCurvePublicKey.from_encoded_point(EC[curve](), point)


def raw(public):
    numbers, size = public.public_numbers(), (public.curve.key_size + 7) // 8
    return b"\x04" + numbers.x.to_bytes(size, "big") + numbers.y.to_bytes(size, "big")


def octets(point):
    return b"\x04" + (bytes((len(point),)) if len(point) < 128 else bytes((0x81, len(point)))) + point


def value_of(run, session, base, mechanism, parameter=b"", length=None):
    wanted = {**OPEN}
    if length is not None:
        wanted[CKA.VALUE_LEN] = ulong(length)
    key = run.derive(session, base, mechanism, wanted, parameter)
    value = run.get(session, key, CKA.VALUE)
    assert run.get(session, key, CKA.VALUE_LEN) == ulong(len(value))
    return value


def refused(rv, call, *args, **more):
    with pytest.raises(Rv) as error:
        call(*args, **more)
    assert error.value == rv


# -- key agreement


@pytest.mark.parametrize("curve", CURVES)
def test_ecdh(token, session, curve):
    private, public = agreement_key(token, session, curve)
    for mechanism in (CKM.ECDH1_DERIVE, CKM.ECDH1_COFACTOR_DERIVE):
        other = ec.generate_private_key(EC[curve]())
        shared = other.exchange(ec.ECDH(), public)
        for point in (raw(other.public_key()), octets(raw(other.public_key()))):
            assert shared == value_of(token, session, private, mechanism, ecdh(point))
        parameter = ecdh(raw(other.public_key()))
        for length in (1, 16, len(shared)):
            assert shared[-length:] == value_of(token, session, private, mechanism, parameter, length)
        refused(CKR.TEMPLATE_INCONSISTENT, value_of, token, session, private, mechanism, parameter, len(shared) + 1)


@pytest.mark.parametrize(
    ("kdf", "digest"),
    [
        (CKD.SHA1_KDF, hashes.SHA1()),
        (CKD.SHA224_KDF, hashes.SHA224()),
        (CKD.SHA256_KDF, hashes.SHA256()),
        (CKD.SHA384_KDF, hashes.SHA384()),
        (CKD.SHA512_KDF, hashes.SHA512()),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_ecdh_with_a_key_derivation_function(token, session, kdf, digest):
    private, public = agreement_key(token, session)
    other = ec.generate_private_key(ec.SECP256R1())
    shared = other.exchange(ec.ECDH(), public)
    for info in (b"", b"shared information"):
        parameter = ecdh(raw(other.public_key()), kdf, info)
        for length in (1, digest.digest_size, 150):
            wanted = X963KDF(digest, length, info).derive(shared)
            assert wanted == value_of(token, session, private, CKM.ECDH1_DERIVE, parameter, length)
        wanted = X963KDF(digest, digest.digest_size, info).derive(shared)
        assert wanted == value_of(token, session, private, CKM.ECDH1_DERIVE, parameter)


def test_x963_vectors():
    """NIST CAVS, ANSI X9.63 key derivation, SHA-256: counts 0 of both lengths of the shared information."""
    from p11tpm.family.ec_later import x963

    shared = bytes.fromhex("96c05619d56c328ab95fe84b18264b08725b85e33fd34f08")
    assert x963(shared, b"", "sha256", 16).hex() == "443024c3dae66b95e6f5670601558f71"
    shared = bytes.fromhex("22518b10e70f2a3f243810ae3254139efbee04aa57c7af7d")
    info = bytes.fromhex("75eef81aa3041e33b80971203d2c0c52")
    wanted = (
        "c498af77161cc59f2962b9a713e2b215152d139766ce34a776df11866a69bf2e52a13d9c7c6fc878c50c5ea0bc7b00e0"
        "da2447cfd874f6cf92f30d0097111485500c90c3af8b487872d04685d14c8d1dc8d7fa08beb0ce0ababc11f0bd496269"
        "142d43525a78e5bc79a17f59676a5706dc54d54d4d1f0bd7e386128ec26afc21"
    )
    assert x963(shared, info, "sha256", 128).hex() == wanted


def test_points_that_are_refused_before_the_tpm_sees_them(token, session, proxy):
    private, _ = agreement_key(token, session)
    good = raw(ec.generate_private_key(ec.SECP256R1()).public_key())
    x, y = int.from_bytes(good[1:33], "big"), int.from_bytes(good[33:], "big")
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    bad = [
        b"",
        b"\x00",
        good[:-1],
        good + b"\x00",
        b"\x02" + good[1:33],
        b"\x06" + good[1:],
        good[:-1] + bytes((good[-1] ^ 1,)),
        bytes(65),
        b"\x04" + bytes(64),
        b"\x04" + x.to_bytes(32, "big") + (prime - y ^ 1).to_bytes(32, "big"),
        b"\x04" + b"\xff" * 64,
        b"\x05" + octets(good)[1:],
        raw(ec.generate_private_key(ec.SECP384R1()).public_key()),
    ]
    proxy.clear()
    for point in bad:
        refused(CKR.MECHANISM_PARAM_INVALID, value_of, token, session, private, CKM.ECDH1_DERIVE, ecdh(point))
    parameter = ecdh(good, 99)
    refused(CKR.MECHANISM_PARAM_INVALID, value_of, token, session, private, CKM.ECDH1_DERIVE, parameter)
    parameter = ecdh(good, CKD.NULL, b"x")
    refused(CKR.MECHANISM_PARAM_INVALID, value_of, token, session, private, CKM.ECDH1_DERIVE, parameter)
    assert proxy.commands == []


def test_the_curves_are_those_of_another_implementation():
    from p11tpm.crypto.point import coordinates

    for name, curve in EC.items():
        numbers = ec.generate_private_key(curve()).public_key().public_numbers()
        point = raw(numbers.public_key())
        assert (numbers.x, numbers.y) == coordinates(name, point) == coordinates(name, octets(point))
        with pytest.raises(ValueError, match="not on the curve"):
            coordinates(name, point[:-1] + bytes((point[-1] ^ 2,)))


def test_ecdh_gives_keys_of_any_type_as_the_template_says(token, session):
    private, public = agreement_key(token, session)
    other = ec.generate_private_key(ec.SECP256R1())
    shared, parameter = other.exchange(ec.ECDH(), public), ecdh(raw(other.public_key()))
    aes = {CKA.KEY_TYPE: ulong(CKK.AES)}
    wanted = {**SECRET, **aes, **OPEN, CKA.VALUE_LEN: ulong(16), CKA.LABEL: b"derived", CKA.TOKEN: TRUE}
    key = token.derive(session, private, CKM.ECDH1_DERIVE, wanted, parameter)
    assert token.find(session, {CKA.LABEL: b"derived"}) == [key]
    assert token.get(session, key, CKA.VALUE) == shared[16:]
    assert token.get(session, key, CKA.LOCAL) == FALSE
    assert token.get(session, key, CKA.KEY_GEN_MECHANISM) == b"\xff" * 8
    assert token.get(session, key, CKA.KEY_TYPE) == ulong(CKK.AES)
    for template, rv in (
        (aes, CKR.TEMPLATE_INCOMPLETE),
        ({**aes, CKA.VALUE_LEN: ulong(17)}, CKR.KEY_SIZE_RANGE),
        ({CKA.VALUE_LEN: ulong(0)}, CKR.KEY_SIZE_RANGE),
        ({CKA.VALUE_LEN: ulong(1 << 40)}, CKR.KEY_SIZE_RANGE),
        ({CKA.CLASS: ulong(CKO.DATA)}, CKR.TEMPLATE_INCONSISTENT),
        ({CKA.KEY_TYPE: ulong(CKK.RSA)}, CKR.ATTRIBUTE_VALUE_INVALID),
        ({CKA.VALUE: bytes(32)}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.LOCAL: TRUE}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.NEVER_EXTRACTABLE: TRUE}, CKR.ATTRIBUTE_READ_ONLY),
    ):
        refused(rv, token.derive, session, private, CKM.ECDH1_DERIVE, template, parameter)


def test_attributes_of_an_agreed_key(token, session):
    private, _ = agreement_key(token, session)
    parameter = ecdh(raw(ec.generate_private_key(ec.SECP256R1()).public_key()))
    for sensitive in (TRUE, FALSE):
        for extractable in (TRUE, FALSE):
            template = {CKA.SENSITIVE: sensitive, CKA.EXTRACTABLE: extractable}
            key = token.derive(session, private, CKM.ECDH1_DERIVE, template, parameter)
            wanted = {**template, CKA.ALWAYS_SENSITIVE: sensitive}
            wanted[CKA.NEVER_EXTRACTABLE] = TRUE if extractable == FALSE else FALSE
            assert {type_: token.get(session, key, type_) for type_ in wanted} == wanted
    key = token.derive(session, private, CKM.ECDH1_DERIVE, {}, parameter)
    refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, key, CKA.VALUE)


# -- hashes


@pytest.mark.parametrize(
    ("mechanism", "digest"),
    [
        (CKM.SHA1_KEY_DERIVATION, "sha1"),
        (CKM.SHA224_KEY_DERIVATION, "sha224"),
        (CKM.SHA256_KEY_DERIVATION, "sha256"),
        (CKM.SHA384_KEY_DERIVATION, "sha384"),
        (CKM.SHA512_KEY_DERIVATION, "sha512"),
    ],
)
def test_hashes(token, session, mechanism, digest):
    base = created(token, session)
    wanted = hashlib.new(digest, BASE).digest()
    assert wanted == value_of(token, session, base, mechanism)
    assert wanted[:16] == value_of(token, session, base, mechanism, length=16)
    refused(CKR.TEMPLATE_INCONSISTENT, value_of, token, session, base, mechanism, length=len(wanted) + 1)


# -- AES (clause 2.15)


@pytest.mark.parametrize("size", [16, 24, 32])
def test_encrypted_data(token, session, size):
    base = created(token, session, BASE[:size], CKK.AES)
    iv = bytes(range(16))
    for mechanism, mode, parameter in (
        (CKM.AES_ECB_ENCRYPT_DATA, modes.ECB(), string(DATA)),
        (CKM.AES_CBC_ENCRYPT_DATA, modes.CBC(iv), cbc_data(iv, DATA)),
    ):
        cipher = Cipher(algorithms.AES(BASE[:size]), mode).encryptor()
        wanted = cipher.update(DATA) + cipher.finalize()
        assert wanted == value_of(token, session, base, mechanism, parameter)
        assert wanted[:32] == value_of(token, session, base, mechanism, parameter, 32)
    for data, length in ((DATA[:15], None), (DATA[:31], 16), (b"", None), (DATA[:16], 32)):
        for mechanism, parameter in (
            (CKM.AES_ECB_ENCRYPT_DATA, string(data)),
            (CKM.AES_CBC_ENCRYPT_DATA, cbc_data(iv, data)),
        ):
            refused(CKR.MECHANISM_PARAM_INVALID, value_of, token, session, base, mechanism, parameter, length)


# -- keys joined with something (clauses 2.43.3 to 2.43.6)


def test_joined_values(token, session):
    base, other = created(token, session), created(token, session, b"another key's value")
    xor = bytes(a ^ b for a, b in zip(BASE, DATA, strict=False))
    for mechanism, parameter, wanted in (
        (CKM.CONCATENATE_BASE_AND_KEY, ulongs(other), BASE + b"another key's value"),
        (CKM.CONCATENATE_BASE_AND_DATA, string(DATA), BASE + DATA),
        (CKM.CONCATENATE_DATA_AND_BASE, string(DATA), DATA + BASE),
        (CKM.XOR_BASE_AND_DATA, string(DATA), xor),
        (CKM.XOR_BASE_AND_DATA, string(DATA[:20]), xor[:20]),
    ):
        assert wanted == value_of(token, session, base, mechanism, parameter)
        assert wanted[:10] == value_of(token, session, base, mechanism, parameter, 10)
        refused(CKR.TEMPLATE_INCONSISTENT, value_of, token, session, base, mechanism, parameter, len(wanted) + 1)
    refused(CKR.KEY_HANDLE_INVALID, value_of, token, session, base, CKM.CONCATENATE_BASE_AND_KEY, ulongs(99))
    no_derive = created(token, session, template={CKA.DERIVE: FALSE})
    parameter = ulongs(no_derive)
    refused(CKR.KEY_FUNCTION_NOT_PERMITTED, value_of, token, session, base, CKM.CONCATENATE_BASE_AND_KEY, parameter)


JOINED = (CKM.CONCATENATE_BASE_AND_DATA, CKM.CONCATENATE_DATA_AND_BASE, CKM.XOR_BASE_AND_DATA)


def protection(run, session, key):
    types = (CKA.SENSITIVE, CKA.EXTRACTABLE, CKA.ALWAYS_SENSITIVE, CKA.NEVER_EXTRACTABLE)
    return tuple(run.get(session, key, type_) == TRUE for type_ in types)


@pytest.mark.parametrize("mechanism", JOINED)
def test_a_joined_key_is_as_protected_as_its_base(token, session, mechanism):
    parameter = string(DATA)
    hidden = generated(token, session, template={CKA.SENSITIVE: TRUE})
    key = token.derive(session, hidden, mechanism, {}, parameter)
    assert protection(token, session, key) == (True, False, True, True)
    refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, key, CKA.VALUE)
    for template in (OPEN, {CKA.SENSITIVE: FALSE}, {CKA.EXTRACTABLE: TRUE}):
        refused(CKR.TEMPLATE_INCONSISTENT, token.derive, session, hidden, mechanism, template, parameter)
    kept = token.derive(session, generated(token, session), mechanism, {}, parameter)
    assert protection(token, session, kept) == (False, False, False, True)
    refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, kept, CKA.VALUE)
    wrappable = generated(token, session, template={CKA.SENSITIVE: TRUE, CKA.EXTRACTABLE: TRUE})
    key = token.derive(session, wrappable, mechanism, {CKA.EXTRACTABLE: TRUE}, parameter)
    assert protection(token, session, key) == (True, True, True, False)
    refused(CKR.TEMPLATE_INCONSISTENT, token.derive, session, wrappable, mechanism, OPEN, parameter)
    key = token.derive(session, created(token, session), mechanism, {}, parameter)
    assert protection(token, session, key) == (False, False, False, False)


def test_a_key_of_two_keys_is_as_protected_as_either(token, session):
    hidden, opened = generated(token, session, template={CKA.SENSITIVE: TRUE}), created(token, session)
    mechanism = CKM.CONCATENATE_BASE_AND_KEY
    for base, other in ((hidden, opened), (opened, hidden)):
        refused(CKR.TEMPLATE_INCONSISTENT, token.derive, session, base, mechanism, OPEN, ulongs(other))
        key = token.derive(session, base, mechanism, {}, ulongs(other))
        assert protection(token, session, key) == (True, False, False, False)
    key = token.derive(session, hidden, mechanism, {}, ulongs(hidden))
    assert protection(token, session, key) == (True, False, True, True)


def test_a_sensitive_key_is_not_cut_into_pieces_that_can_be_tried(token, session):
    hidden, short = generated(token, session), generated(token, session, 8)
    opened = created(token, session, DATA)
    append, prepend, join = CKM.CONCATENATE_BASE_AND_DATA, CKM.CONCATENATE_DATA_AND_BASE, CKM.CONCATENATE_BASE_AND_KEY
    for base, mechanism, parameter, length, ok in (
        (hidden, append, string(DATA), 15, False),
        (hidden, append, string(DATA), 16, True),
        (hidden, prepend, string(DATA), len(DATA), True),
        (hidden, prepend, string(DATA), len(DATA) + 1, False),
        (hidden, prepend, string(DATA), len(DATA) + 16, True),
        (hidden, CKM.XOR_BASE_AND_DATA, string(DATA[:1]), None, False),
        (hidden, CKM.XOR_BASE_AND_DATA, string(DATA), 15, False),
        (hidden, CKM.XOR_BASE_AND_DATA, string(DATA), 16, True),
        (hidden, join, ulongs(opened), 15, False),
        (opened, join, ulongs(hidden), len(DATA) + 15, False),
        (opened, join, ulongs(hidden), len(DATA) + 16, True),
        (short, append, string(DATA), 7, False),
        (short, append, string(DATA), 8, True),
    ):
        template = {} if length is None else {CKA.VALUE_LEN: ulong(length)}
        if ok:
            token.derive(session, base, mechanism, template, parameter)
        else:
            refused(CKR.KEY_SIZE_RANGE, token.derive, session, base, mechanism, template, parameter)


# -- HKDF (RFC 5869, appendix A)

VECTORS = [
    (
        CKM.SHA256,
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        CKM.SHA256,
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
        (
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
    ),
    (
        CKM.SHA256,
        "0b" * 22,
        "",
        "",
        "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
    (
        CKM.SHA_1,
        "0b" * 11,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "9b6c18c432a7bf8f0e71c8eb88f4b30baa2ba243",
        "085a01ea1b10f36933068b56efa5ad81a4f14b822f5b091568a9cdd4f155fda2c22e422478d305f3f896",
    ),
]


@pytest.mark.parametrize(("hash_", "key", "salt", "info", "extracted", "expanded"), VECTORS)
def test_hkdf_vectors(token, session, hash_, key, salt, info, extracted, expanded):
    base = created(token, session, bytes.fromhex(key))
    salt, info = bytes.fromhex(salt), bytes.fromhex(info)
    extracted, expanded = bytes.fromhex(extracted), bytes.fromhex(expanded)
    derive, data = CKM.HKDF_DERIVE, CKM.HKDF_DATA
    assert extracted == value_of(token, session, base, derive, hkdf(hash_, salt, steps="extract"))
    middle = created(token, session, extracted, CKK.HKDF)
    only = hkdf(hash_, info=info, steps="expand")
    assert expanded == value_of(token, session, middle, derive, only, len(expanded))
    both = hkdf(hash_, salt, info)
    assert expanded == value_of(token, session, base, derive, both, len(expanded))
    if not salt:
        assert expanded == value_of(token, session, base, derive, hkdf(hash_, None, info), len(expanded))
    else:
        by_key = hkdf(hash_, info=info, salt_key=created(token, session, salt))
        assert expanded == value_of(token, session, base, derive, by_key, len(expanded))
    made = token.derive(session, base, data, {CKA.VALUE_LEN: ulong(len(expanded))}, both)
    assert token.get(session, made, CKA.CLASS) == ulong(CKO.DATA)
    assert token.get(session, made, CKA.VALUE) == expanded


@pytest.mark.parametrize("hash_", HASHES)
def test_hkdf_of_every_hash(token, session, hash_):
    digest = getattr(hashes, HASHES[hash_].upper())()
    base, size = created(token, session), digest.digest_size
    for length in (None, 1, size + 1, min(255 * size, 4096)):
        wanted = HKDF(digest, length or size, b"salt", b"info").derive(BASE)
        assert wanted == value_of(token, session, base, CKM.HKDF_DERIVE, hkdf(hash_, b"salt", b"info"), length)


def test_hkdf_refusals(token, session):
    base, no_derive = created(token, session), created(token, session, template={CKA.DERIVE: FALSE})
    derive = CKM.HKDF_DERIVE
    for parameter, length, rv in (
        (hkdf(CKM.SHA256, steps=""), None, CKR.MECHANISM_PARAM_INVALID),
        (hkdf(CKM.AES_ECB), None, CKR.MECHANISM_PARAM_INVALID),
        (hkdf(CKM.SHA256, steps="extract"), 33, CKR.TEMPLATE_INCONSISTENT),
        (hkdf(CKM.SHA256), 4097, CKR.KEY_SIZE_RANGE),
        (ulongs(257, CKM.SHA_1, 4, 0, 0, 0, 0, 0), None, CKR.MECHANISM_PARAM_INVALID),
        (ulongs(257, CKM.SHA_1, 2, 0, 1, 0, 0, 0), None, CKR.MECHANISM_PARAM_INVALID),
        (ulongs(257, CKM.SHA_1, 3, 0, 0, 0, 0, 0), None, CKR.MECHANISM_PARAM_INVALID),
        (hkdf(CKM.SHA_1, salt_key=99), None, CKR.KEY_HANDLE_INVALID),
        (hkdf(CKM.SHA_1, salt_key=no_derive), None, CKR.KEY_FUNCTION_NOT_PERMITTED),
        (b"", None, CKR.MECHANISM_PARAM_INVALID),
    ):
        refused(rv, value_of, token, session, base, derive, parameter, length)
    for template, rv in (
        ({CKA.VALUE: b"x"}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.VALUE_LEN: ulong(0)}, CKR.KEY_SIZE_RANGE),
        ({CKA.CLASS: ulong(CKO.SECRET_KEY)}, CKR.TEMPLATE_INCONSISTENT),
        ({CKA.SENSITIVE: TRUE}, CKR.ATTRIBUTE_TYPE_INVALID),
    ):
        refused(rv, token.derive, session, base, CKM.HKDF_DATA, template, hkdf(CKM.SHA256))


def test_hkdf_reads_what_its_steps_need(token, session):
    base, derive, nowhere = created(token, session), CKM.HKDF_DERIVE, (0x123456789, 16)
    extracted = value_of(token, session, base, derive, hkdf(CKM.SHA256, b"salt", steps="extract"))
    no_info = ulongs(1, CKM.SHA256, 2, pointer(b"salt"), 4, 0, *nowhere)
    assert value_of(token, session, base, derive, no_info) == extracted
    expanded = value_of(token, session, base, derive, hkdf(CKM.SHA256, info=b"info", steps="expand"))
    for kind in (0, 1, 2, 4):
        no_salt = ulongs(256, CKM.SHA256, kind, *nowhere, 99, pointer(b"info"), 4)
        assert value_of(token, session, base, derive, no_salt) == expanded


# -- who may, and what stays


def test_what_a_key_may_not_derive(token, session):
    private, public = agreement_key(token, session)
    no_derive, _ = agreement_key(token, session)
    secret = created(token, session, template={CKA.DERIVE: FALSE})
    parameter = ecdh(raw(public))
    token.set(session, no_derive, {CKA.DERIVE: FALSE})
    for key, mechanism, given, rv in (
        (no_derive, CKM.ECDH1_DERIVE, parameter, CKR.KEY_FUNCTION_NOT_PERMITTED),
        (secret, CKM.SHA256_KEY_DERIVATION, b"", CKR.KEY_FUNCTION_NOT_PERMITTED),
        (secret, CKM.ECDH1_DERIVE, parameter, CKR.KEY_TYPE_INCONSISTENT),
        (private, CKM.SHA256_KEY_DERIVATION, b"", CKR.KEY_TYPE_INCONSISTENT),
        (private, CKM.ECDSA, b"", CKR.MECHANISM_INVALID),
        (private, 0x12345, b"", CKR.MECHANISM_INVALID),
        (99, CKM.ECDH1_DERIVE, parameter, CKR.KEY_HANDLE_INVALID),
    ):
        refused(rv, token.derive, session, key, mechanism, {}, given)


def test_derivation_without_a_login(token):
    session = token.open(token.slots()[0])
    template = {CKA.PRIVATE: FALSE}
    base = created(token, session, template=template)
    key = token.derive(session, base, CKM.SHA256_KEY_DERIVATION, {**OPEN, **template})
    assert token.get(session, key, CKA.VALUE) == hashlib.sha256(BASE).digest()
    for more in ({}, {**template, CKA.TOKEN: TRUE}):
        refused(CKR.USER_NOT_LOGGED_IN, token.derive, session, base, CKM.SHA256_KEY_DERIVATION, more)


def test_derived_keys_of_a_token_are_there_in_the_next_run(token, session):
    base = generated(token, session, template={CKA.TOKEN: TRUE, CKA.LABEL: b"base"})
    wanted = value_of(token, session, base, CKM.SHA256_KEY_DERIVATION)
    token.finalize()
    token.initialize()
    session = token.open(token.slots()[0])
    token.login(session, 1, b"123456")
    (base,) = token.find(session, {CKA.LABEL: b"base"})
    assert wanted == value_of(token, session, base, CKM.SHA256_KEY_DERIVATION)


def test_a_key_that_wants_its_pin_each_time_is_not_used_by_one_call(token, session):
    public = {CKA.EC_PARAMS: CURVES["p256"].params}
    template = {CKA.DERIVE: TRUE, CKA.ALWAYS_AUTHENTICATE: TRUE}
    _, private = token.generate_pair(session, CKM.EC_KEY_PAIR_GEN, public, template)
    parameter = ecdh(raw(ec.generate_private_key(ec.SECP256R1()).public_key()))
    refused(CKR.USER_NOT_LOGGED_IN, token.derive, session, private, CKM.ECDH1_DERIVE, {}, parameter)
