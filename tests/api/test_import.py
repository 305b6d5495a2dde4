"""Private keys from outside: C_CreateObject brings them into the TPM, and nobody reads them again."""

import contextlib
import math
import os
import sqlite3

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptoki import RO, USER, Rv
from keys import verify_ecdsa, verify_pkcs1

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKD, CKK, CKM, CKO, CKR, UNAVAILABLE
from p11tpm.store import Store

PIN = b"123456"
CURVES = {
    "p192": ("06082a8648ce3d030101", ec.SECP192R1()),
    "p224": ("06052b81040021", ec.SECP224R1()),
    "p256": ("06082a8648ce3d030107", ec.SECP256R1()),
    "p384": ("06052b81040022", ec.SECP384R1()),
    "p521": ("06052b81040023", ec.SECP521R1()),
}
RSA_PARTS = (CKA.PRIVATE_EXPONENT, CKA.PRIME_1, CKA.PRIME_2, CKA.EXPONENT_1, CKA.EXPONENT_2, CKA.COEFFICIENT)
INFO = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def refused(rv, call, *args):
    with pytest.raises(Rv) as error:
        call(*args)
    assert error.value == rv


def octets(number):
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def rsa_template(key, *parts, **more):
    numbers = key.private_numbers()
    values = (numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp)
    given = dict(zip(RSA_PARTS, map(octets, values), strict=True))
    return {
        CKA.CLASS: ulong(CKO.PRIVATE_KEY),
        CKA.KEY_TYPE: ulong(CKK.RSA),
        CKA.MODULUS: octets(numbers.public_numbers.n),
        CKA.PUBLIC_EXPONENT: octets(numbers.public_numbers.e),
        **{part: given[part] for part in parts or RSA_PARTS},
        **more,
    }


def ec_template(key, curve="p256"):
    return {
        CKA.CLASS: ulong(CKO.PRIVATE_KEY),
        CKA.KEY_TYPE: ulong(CKK.EC),
        CKA.EC_PARAMS: bytes.fromhex(CURVES[curve][0]),
        CKA.VALUE: octets(key.private_numbers().private_value),
    }


def check_rsa(run, session, handle, key):
    signature = run.sign(session, handle, CKM.SHA256_RSA_PKCS, b"text")
    verify_pkcs1(key.public_key(), signature, b"text", "sha256")


def check_ec(run, session, handle, key):
    verify_ecdsa(key.public_key(), run.sign(session, handle, CKM.ECDSA_SHA256, b"text"), b"text", "sha256")


@pytest.fixture(scope="module")
def rsa_key():
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def ec_key():
    return ec.generate_private_key(ec.SECP256R1())


def make_srk(swtpm, kind):
    context = swtpm.directory / "srk.context"
    digest = "sha384" if "384" in kind else "sha256"
    attributes = "restricted|decrypt|noda|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    swtpm.tool("createprimary", "-C", "o", "-G", kind, "-g", digest, "-a", attributes, "-c", str(context))
    swtpm.tool("evictcontrol", "-C", "o", "-c", str(context), "0x81000001")
    swtpm.flush()


@pytest.mark.parametrize("kind", ["rsa2048", "ecc256:aes128cfb", "ecc384:aes256cfb", "trusted", "transient"])
def test_every_storage_root_key_takes_keys(settings, swtpm, kind, rsa_key, ec_key, tmp_path, request):
    assert settings
    if ":" in kind or kind == "rsa2048":
        make_srk(swtpm, kind)
    if kind == "trusted":
        (tmp_path / "p11tpm.conf").write_text("log = off\nbus = trusted\n")
    token = request.getfixturevalue("token")
    if kind == "transient":
        with contextlib.closing(sqlite3.connect(tmp_path / "store" / "p11tpm.db")) as database, database:
            database.execute("UPDATE token SET srk_handle = 0")
        swtpm.tool("evictcontrol", "-C", "o", "-c", "0x81000001")
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    check_rsa(token, session, token.create(session, rsa_template(rsa_key)), rsa_key)
    check_ec(token, session, token.create(session, ec_template(ec_key)), ec_key)


def test_one_command(token, session, proxy, rsa_key):
    proxy.clear()
    token.create(session, rsa_template(rsa_key))
    assert proxy.names[-1] == "Import"
    assert set(proxy.names) <= {"StartAuthSession", "Import"}


@pytest.mark.parametrize(
    "parts",
    [
        (CKA.PRIVATE_EXPONENT,),
        (CKA.PRIME_1,),
        (CKA.PRIME_2,),
        (CKA.PRIME_1, CKA.PRIME_2),
        (CKA.PRIVATE_EXPONENT, CKA.EXPONENT_1, CKA.EXPONENT_2, CKA.COEFFICIENT),
        RSA_PARTS,
    ],
)
def test_rsa_keys_from_what_is_given(token, session, rsa_key, parts):
    check_rsa(token, session, token.create(session, rsa_template(rsa_key, *parts)), rsa_key)
    if {CKA.PRIME_1, CKA.PRIME_2} <= set(parts):
        template = rsa_template(rsa_key, *parts)
        del template[CKA.MODULUS], template[CKA.PUBLIC_EXPONENT]
        check_rsa(token, session, token.create(session, template), rsa_key)


@pytest.mark.parametrize("bits", [1024, 2048, 3072])
def test_rsa_keys_sign_and_decrypt(token, session, bits):
    key = rsa.generate_private_key(65537, bits)
    handle = token.create(session, rsa_template(key))
    check_rsa(token, session, handle, key)
    secret = key.public_key().encrypt(b"a secret", padding.PKCS1v15())
    token.C_DecryptInit(session, token.mechanism(CKM.RSA_PKCS), handle)
    out, length = token.ffi.new("CK_BYTE[]", bits // 8), token.ulong()
    length[0] = bits // 8
    token.C_Decrypt(session, secret, len(secret), out, length)
    assert bytes(token.ffi.buffer(out, length[0])) == b"a secret"


def with_exponent(exponent):
    while True:
        p, q = (rsa.generate_private_key(65537, 2048).private_numbers().p for _ in range(2))
        if math.gcd(exponent, (p - 1) * (q - 1)) == 1:
            d = pow(exponent, -1, (p - 1) * (q - 1))
            public = rsa.RSAPublicNumbers(exponent, p * q)
            return rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public).private_key()


@pytest.mark.parametrize("exponent", [17, 65539, 4294967291])
def test_other_exponents(token, session, exponent):
    key = with_exponent(exponent)
    handle = token.create(session, rsa_template(key))
    check_rsa(token, session, handle, key)
    assert token.get(session, handle, CKA.PUBLIC_EXPONENT) == octets(exponent)


def test_an_exponent_that_the_tpm_refuses(token, session, proxy):
    refused(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, rsa_template(with_exponent(3)))
    assert "Import" in proxy.names


@pytest.mark.parametrize("curve", CURVES)
def test_ec_keys_sign_and_agree(token, session, curve):
    key, other = (ec.generate_private_key(CURVES[curve][1]) for _ in range(2))
    assert curve in token_capabilities().split()
    handle = token.create(session, ec_template(key, curve) | {CKA.DERIVE: TRUE})
    check_ec(token, session, handle, key)
    peer = other.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    data = token.ffi.from_buffer(peer)
    params = token.ffi.new("CK_ECDH1_DERIVE_PARAMS *")
    params.kdf, params.ulPublicDataLen, params.pPublicData = CKD.NULL, len(peer), token.ffi.cast("CK_BYTE *", data)
    mechanism = token.ffi.new("CK_MECHANISM *")
    mechanism.mechanism, mechanism.ulParameterLen = CKM.ECDH1_DERIVE, token.ffi.sizeof(params[0])
    mechanism.pParameter = params
    wanted = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET)}
    wanted |= {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE}
    derived = token.ulong()
    token.C_DeriveKey(session, mechanism, handle, *token.template(wanted), derived)
    assert token.get(session, derived[0], CKA.VALUE) == key.exchange(ec.ECDH(), other.public_key())


def token_capabilities():
    return Store(os.environ["P11TPM_STORE"]).tokens()[0].capabilities


def test_a_short_scalar(token, session):
    key = ec.derive_private_key(0x1234567, ec.SECP256R1())
    check_ec(token, session, token.create(session, ec_template(key)), key)


def test_what_an_imported_key_says_of_itself(token, session, rsa_key, ec_key):
    for key, template in ((rsa_key, rsa_template(rsa_key)), (ec_key, ec_template(ec_key))):
        handle = token.create(session, {**template, CKA.ID: b"\x07", CKA.TOKEN: TRUE})
        said = {
            CKA.LOCAL: FALSE,
            CKA.ALWAYS_SENSITIVE: FALSE,
            CKA.NEVER_EXTRACTABLE: FALSE,
            CKA.KEY_GEN_MECHANISM: ulong(UNAVAILABLE),
            CKA.SENSITIVE: TRUE,
            CKA.EXTRACTABLE: FALSE,
            CKA.PRIVATE: TRUE,
            CKA.SIGN: TRUE,
            CKA.ID: b"\x07",
            CKA.PUBLIC_KEY_INFO: key.public_key().public_bytes(*INFO),
        }
        for type_ in (CKA.MODULUS, CKA.PUBLIC_EXPONENT, CKA.EC_PARAMS):
            if type_ in template:
                said[type_] = template[type_]
        for type_, value in said.items():
            assert token.get(session, handle, type_) == value, hex(type_)
        for type_ in RSA_PARTS if key is rsa_key else (CKA.VALUE,):
            refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, handle, type_)
            assert token.find(session, {type_: template[type_]}) == []


def test_nothing_private_is_stored(token, session, rsa_key, ec_key, tmp_path):
    templates = [rsa_template(rsa_key), ec_template(ec_key)]
    for template in templates:
        token.create(session, {**template, CKA.TOKEN: TRUE})
    token.finalize()
    token.initialize()
    on_disk = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir())
    assert templates[0][CKA.MODULUS] in on_disk
    for template in templates:
        for type_ in (*RSA_PARTS, CKA.VALUE):
            assert type_ not in template or template[type_][:16] not in on_disk, hex(type_)


def test_imported_keys_outlive_the_run_and_the_tpm(token, session, swtpm, rsa_key, ec_key):
    token.create(session, {**rsa_template(rsa_key), CKA.TOKEN: TRUE, CKA.LABEL: b"rsa"})
    token.create(session, {**ec_template(ec_key), CKA.TOKEN: TRUE, CKA.LABEL: b"ec"})
    token.finalize()
    swtpm.restart()
    token.initialize()
    again = token.open(token.slots()[0])
    token.login(again, USER, PIN)
    check_rsa(token, again, *token.find(again, {CKA.LABEL: b"rsa"}), rsa_key)
    check_ec(token, again, *token.find(again, {CKA.LABEL: b"ec"}), ec_key)


def test_without_a_login_only_public_session_keys(token, ec_key):
    session = token.open(token.slots()[0], RO)
    template = ec_template(ec_key)
    refused(CKR.USER_NOT_LOGGED_IN, token.create, session, template)
    refused(CKR.USER_NOT_LOGGED_IN, token.create, session, {**template, CKA.TOKEN: TRUE, CKA.PRIVATE: TRUE})
    check_ec(token, session, token.create(session, {**template, CKA.PRIVATE: FALSE}), ec_key)
    writing = token.open(token.slots()[0])
    refused(CKR.USER_NOT_LOGGED_IN, token.create, writing, {**template, CKA.PRIVATE: FALSE, CKA.TOKEN: TRUE})
    token.login(session, USER, PIN)
    refused(CKR.SESSION_READ_ONLY, token.create, session, {**template, CKA.TOKEN: TRUE})
    check_ec(token, session, token.create(session, template), ec_key)


def test_numbers_that_do_not_fit(token, session, proxy, rsa_key, ec_key):
    whole = rsa_template(rsa_key)
    other = rsa_template(rsa.generate_private_key(65537, 2048))
    curve = ec.SECP256R1()
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    point = (
        ec.generate_private_key(curve)
        .public_key()
        .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    )
    proxy.clear()
    for part in (*RSA_PARTS, CKA.MODULUS):
        refused(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, {**whole, part: other[part]})
    for alone in (CKA.PRIVATE_EXPONENT, CKA.PRIME_1):
        template = rsa_template(rsa_key, alone)
        for wrong in (other[alone], b"\x01", b"\xff" * 200):
            refused(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, {**template, alone: wrong})
    composite = octets((1 << 1024) - 1), octets((1 << 1024) - 3)
    primes = {CKA.PRIME_1: composite[0], CKA.PRIME_2: composite[1]}
    refused(
        CKR.ATTRIBUTE_VALUE_INVALID,
        token.create,
        session,
        {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(CKK.RSA), **primes},
    )
    for exponent in (b"", b"\x02", b"\x01", b"\x01\x00\x00\x00\x01"):
        template = {**whole, CKA.PUBLIC_EXPONENT: exponent}
        refused(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, template)
    for value in (order, order + 1, 1 << 300):
        refused(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, {**ec_template(ec_key), CKA.VALUE: octets(value)})
    for said in ({CKA.EC_POINT: point}, {CKA.PUBLIC_KEY_INFO: b"\x30\x00"}):
        refused(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, {**ec_template(ec_key), **said})
    assert proxy.names == []


def test_the_public_key_may_be_said_too(token, session, ec_key, rsa_key):
    point, compressed = (
        ec_key.public_key().public_bytes(serialization.Encoding.X962, form)
        for form in (serialization.PublicFormat.UncompressedPoint, serialization.PublicFormat.CompressedPoint)
    )
    info = ec_key.public_key().public_bytes(*INFO)
    for form in (point, b"\x04\x41" + point, compressed, b"\x04\x21" + compressed):
        token.create(session, {**ec_template(ec_key), CKA.EC_POINT: form, CKA.PUBLIC_KEY_INFO: info})
    token.create(session, {**rsa_template(rsa_key), CKA.PUBLIC_KEY_INFO: rsa_key.public_key().public_bytes(*INFO)})
    token.create(session, {**rsa_template(rsa_key), CKA.PUBLIC_KEY_INFO: b""})
    refused(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, {**rsa_template(rsa_key), CKA.EC_POINT: point})


def test_what_is_missing_or_too_big(token, session, proxy, rsa_key, ec_key):
    whole, curve = rsa_template(rsa_key), ec_template(ec_key)
    nothing = {type_: whole[type_] for type_ in (CKA.CLASS, CKA.KEY_TYPE, CKA.MODULUS, CKA.PUBLIC_EXPONENT)}
    without = [
        nothing,
        {type_: value for type_, value in rsa_template(rsa_key, CKA.PRIVATE_EXPONENT).items() if type_ != CKA.MODULUS},
        *({type_: value for type_, value in curve.items() if type_ != gone} for gone in curve if gone != CKA.CLASS),
        {**curve, CKA.VALUE: b""},
    ]
    proxy.clear()
    for template in without:
        refused(CKR.TEMPLATE_INCOMPLETE, token.create, session, template)
    for bits in (512, 1000, 8192):
        template = {**nothing, CKA.MODULUS: octets((1 << bits) - 1), CKA.PRIME_1: b"\x03"}
        refused(CKR.KEY_SIZE_RANGE, token.create, session, template)
    foreign = {**curve, CKA.EC_PARAMS: bytes.fromhex("06052b8104000a")}
    refused(CKR.CURVE_NOT_SUPPORTED, token.create, session, foreign)
    refused(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, {**curve, CKA.KEY_TYPE: ulong(CKK.AES)})
    refused(CKR.ATTRIBUTE_READ_ONLY, token.create, session, {**curve, CKA.LOCAL: TRUE})
    assert proxy.names == []


def test_a_size_that_this_tpm_does_not_have(token, session, proxy):
    assert "rsa4096" not in token_capabilities()
    key = rsa.generate_private_key(65537, 4096)
    proxy.clear()
    refused(CKR.KEY_SIZE_RANGE, token.create, session, rsa_template(key))
    assert proxy.names == []


def test_primes_of_different_sizes(token, session, proxy):
    long, short = (rsa.generate_private_key(65537, bits).private_numbers().p for bits in (2176, 1920))
    numbers = {CKA.PRIME_1: octets(long), CKA.PRIME_2: octets(short)}
    assert (long * short).bit_length() == 2048
    proxy.clear()
    template = {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(CKK.RSA), **numbers}
    refused(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, template)
    assert proxy.names == []


def test_public_keys_on_foreign_curves_are_kept_as_they_are(token, session):
    """A named curve that no TPM has, and parameters spelt out (Current Mechanisms 3.0, clause 2.3.1)."""
    key = ec.generate_private_key(ec.SECP256K1()).public_key()
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    template = {
        CKA.CLASS: ulong(CKO.PUBLIC_KEY),
        CKA.KEY_TYPE: ulong(CKK.EC),
        CKA.EC_PARAMS: bytes.fromhex("06052b8104000a"),
        CKA.EC_POINT: b"\x04\x41" + point,
        CKA.TOKEN: TRUE,
    }
    handle = token.create(session, template)
    for type_, value in {**template, CKA.PUBLIC_KEY_INFO: key.public_bytes(*INFO)}.items():
        assert token.get(session, handle, type_) == value
    for params in (b"", b"no DER", b"\x04\x01x"):
        refused(CKR.CURVE_NOT_SUPPORTED, token.create, session, {**template, CKA.EC_PARAMS: params})
    raw = token.create(session, {**template, CKA.EC_POINT: point})
    assert token.get(session, raw, CKA.EC_POINT) == template[CKA.EC_POINT]
    for bad in (b"", b"\x04\x00", b"\x05" + point[1:]):
        refused(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, {**template, CKA.EC_POINT: bad})
