"""Verification: signatures of another implementation (cryptography) are right, and everything else is not."""

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptoki import RO, Rv
from keys import NAMED, as_bytes, as_object, ec_pair, rsa_object, rsa_pair

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKG, CKM, CKR

MESSAGE = b"a message, hashed by the mechanism or before it"
HASHES = {
    "sha1": hashes.SHA1(),
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
    "sha3_224": hashes.SHA3_224(),
    "sha3_256": hashes.SHA3_256(),
    "sha3_384": hashes.SHA3_384(),
    "sha3_512": hashes.SHA3_512(),
}
ECDSA = {"sha1": CKM.ECDSA_SHA1, "sha224": CKM.ECDSA_SHA224, "sha256": CKM.ECDSA_SHA256}
ECDSA |= {"sha384": CKM.ECDSA_SHA384, "sha512": CKM.ECDSA_SHA512}
PKCS1 = {"sha1": CKM.SHA1_RSA_PKCS, "sha224": CKM.SHA224_RSA_PKCS, "sha256": CKM.SHA256_RSA_PKCS}
PKCS1 |= {"sha384": CKM.SHA384_RSA_PKCS, "sha512": CKM.SHA512_RSA_PKCS}
PSS = {"sha1": CKM.SHA1_RSA_PKCS_PSS, "sha224": CKM.SHA224_RSA_PKCS_PSS, "sha256": CKM.SHA256_RSA_PKCS_PSS}
PSS |= {"sha384": CKM.SHA384_RSA_PKCS_PSS, "sha512": CKM.SHA512_RSA_PKCS_PSS}
NUMBERS = {
    digest: (getattr(CKM, digest.upper()), getattr(CKG, f"MGF1_{digest.upper()}"))
    for digest in HASHES
    if digest != "sha1"
}
NUMBERS["sha1"] = (CKM.SHA_1, CKG.MGF1_SHA1)
CURVES = {curve.name: curve for curve in (ec.SECP192R1, ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)}
SMALL = 2**256 - 189, 2**256 - 2**32 - 977  # primes: the greatest of 256 bits, and the field of secp256k1


@pytest.fixture
def public_session(token, proxy):
    """A read-only session without a login; the TPM is asked nothing in it."""
    handle = token.open(token.slots()[0], RO)
    proxy.clear()
    yield handle
    assert proxy.commands == []


@pytest.fixture(scope="module")
def rsa_key():
    return rsa.generate_private_key(65537, 2048)


def parts_of(data):
    return [data[:1], b"", data[1:18], data[18:]]


def refused(run, session, key, mechanism, data, signature, parameter=b""):
    """Return the code with which a signature is refused; the operation is over then."""
    with pytest.raises(Rv) as error:
        run.verify(session, key, mechanism, data, signature, parameter)
    assert run.raw.C_Verify(session, data, len(data), signature, len(signature)) == CKR.OPERATION_NOT_INITIALIZED
    return error.value.rv


def pss_parameter(digest, mask, salt):
    return struct.pack("<QQQ", NUMBERS[digest][0], NUMBERS[mask][1], salt)


def pair_of(signature, curve):
    size = (curve.key_size + 7) // 8
    return b"".join(as_bytes(number, size) for number in utils.decode_dss_signature(signature))


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_ecdsa(token, public_session, curve):
    private = ec.generate_private_key(curve())
    key = token.create(public_session, as_object(private.public_key()))
    for digest, mechanism in ECDSA.items():
        signature = pair_of(private.sign(MESSAGE, ec.ECDSA(HASHES[digest])), private.curve)
        token.verify(public_session, key, mechanism, MESSAGE, signature)
        token.verify_parts(public_session, key, mechanism, parts_of(MESSAGE), signature)
        hashed = hashlib.new(digest, MESSAGE).digest()
        token.verify(public_session, key, CKM.ECDSA, hashed, signature)
        assert refused(token, public_session, key, mechanism, MESSAGE + b"x", signature) == CKR.SIGNATURE_INVALID
        assert refused(token, public_session, key, CKM.ECDSA, hashed[::-1], signature) == CKR.SIGNATURE_INVALID


ORDERS = {  # SEC 2
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
}


def test_wrong_ecdsa_signatures(token, public_session):
    private = ec.generate_private_key(ec.SECP256R1())
    key = token.create(public_session, as_object(private.public_key()))
    right = pair_of(private.sign(MESSAGE, ec.ECDSA(HASHES["sha256"])), private.curve)
    other = pair_of(ec.generate_private_key(ec.SECP256R1()).sign(MESSAGE, ec.ECDSA(HASHES["sha256"])), private.curve)
    r, s, order = right[:32], right[32:], as_bytes(ORDERS["secp256r1"])
    for bit in (0, 7, 100, 255, 256, 400, 511):
        wrong = as_bytes(int.from_bytes(right, "big") ^ 1 << bit, 64)
        assert refused(token, public_session, key, CKM.ECDSA_SHA256, MESSAGE, wrong) == CKR.SIGNATURE_INVALID
    for wrong in (other, s + r, bytes(64), b"\xff" * 64, bytes(32) + s, r + bytes(32), order + s, r + order):
        assert refused(token, public_session, key, CKM.ECDSA_SHA256, MESSAGE, wrong) == CKR.SIGNATURE_INVALID
    der = private.sign(MESSAGE, ec.ECDSA(HASHES["sha256"]))
    for wrong in (b"", right[:-1], right + b"\0", right[:32], right * 2, der):
        assert refused(token, public_session, key, CKM.ECDSA_SHA256, MESSAGE, wrong) == CKR.SIGNATURE_LEN_RANGE
    token.verify(public_session, key, CKM.ECDSA_SHA256, MESSAGE, right)


@pytest.mark.parametrize("length", [1, 7, 20, 31, 33, 64, 100])
def test_ecdsa_takes_data_of_any_length(token, public_session, length):
    private = ec.generate_private_key(ec.SECP256R1())
    key = token.create(public_session, as_object(private.public_key()))
    data = bytes(range(1, 1 + length))
    signature = private.sign(data[:32].rjust(32, b"\0"), ec.ECDSA(utils.Prehashed(HASHES["sha256"])))
    token.verify(public_session, key, CKM.ECDSA, data, pair_of(signature, private.curve))


def test_pkcs1(token, public_session, rsa_key):
    key = token.create(public_session, as_object(rsa_key.public_key()))
    for digest, mechanism in PKCS1.items():
        signature = rsa_key.sign(MESSAGE, padding.PKCS1v15(), HASHES[digest])
        token.verify(public_session, key, mechanism, MESSAGE, signature)
        token.verify_parts(public_session, key, mechanism, parts_of(MESSAGE), signature)
        assert refused(token, public_session, key, mechanism, MESSAGE + b"x", signature) == CKR.SIGNATURE_INVALID
        for other in set(PKCS1.values()) - {mechanism}:
            assert refused(token, public_session, key, other, MESSAGE, signature) == CKR.SIGNATURE_INVALID
    for mechanism, data in ((CKM.RSA_PKCS, bytes(246)), (CKM.RSA_X_509, bytes(257))):
        assert refused(token, public_session, key, mechanism, data, bytes(256)) == CKR.DATA_LEN_RANGE
    assert refused(token, public_session, key, CKM.RSA_X_509, b"\xff" * 256, bytes(256)) == CKR.DATA_INVALID


def raise_to(key, block):
    """Perform the private operation on whatever block; the key is the numbers n, d."""
    modulus, private = key
    return as_bytes(pow(int.from_bytes(block, "big"), private, modulus), (modulus.bit_length() + 7) // 8)


def test_wrong_rsa_signatures(token, public_session, rsa_key):
    """Among them those that verifiers took who only looked for the digest (Bleichenbacher 2006)."""
    numbers = rsa_key.private_numbers()
    modulus, size = numbers.public_numbers.n, 256
    key = token.create(public_session, as_object(rsa_key.public_key()))
    digest = hashlib.sha256(MESSAGE).digest()
    info = bytes.fromhex("3031300d060960864801650304020105000420") + digest
    without_null = bytes.fromhex("302f300b0609608648016503040201") + b"\x04\x20" + digest
    good = b"\0\1" + b"\xff" * (size - 3 - len(info)) + b"\0" + info

    def attempt(block):
        signature = raise_to((modulus, numbers.d), block)
        return refused(token, public_session, key, CKM.SHA256_RSA_PKCS, MESSAGE, signature)

    for block in (
        b"\0\1" + b"\xff" * 8 + b"\0" + info + bytes(size - 11 - len(info)),
        b"\0\2" + good[2:],
        b"\0\1" + b"\xff" * 100 + b"\xfe" + good[103:],
        b"\0\1" + b"\xff" * (size - 3 - len(without_null)) + b"\0" + without_null,
        b"\0\1" + b"\xff" * (size - 3 - 32) + b"\0" + digest,
        info.rjust(size, b"\0"),
        bytes(size),
    ):
        assert attempt(block) == CKR.SIGNATURE_INVALID
    right = raise_to((modulus, numbers.d), good)
    above = int.from_bytes(right, "big") + modulus
    wrongs = [bytes(size), bytes(size - 1) + b"\1", b"\xff" * size, right[::-1], bytes([right[0] ^ 1]) + right[1:]]
    if above < 1 << 8 * size:
        wrongs.append(as_bytes(above, size))
    for wrong in wrongs:
        assert refused(token, public_session, key, CKM.SHA256_RSA_PKCS, MESSAGE, wrong) == CKR.SIGNATURE_INVALID
    for wrong in (b"", b"four", right[1:], right + b"\0", b"\0" + right):
        assert refused(token, public_session, key, CKM.SHA256_RSA_PKCS, MESSAGE, wrong) == CKR.SIGNATURE_LEN_RANGE
    token.verify(public_session, key, CKM.SHA256_RSA_PKCS, MESSAGE, right)


@pytest.mark.parametrize("digest", HASHES)
def test_pss(token, public_session, rsa_key, digest):
    key = token.create(public_session, as_object(rsa_key.public_key()))
    hashed = hashlib.new(digest, MESSAGE).digest()
    for mask, salt in ((digest, len(hashed)), ("sha1", 0), ("sha256", 20), (digest, 256 - len(hashed) - 2)):
        scheme = padding.PSS(padding.MGF1(HASHES[mask]), salt)
        signature = rsa_key.sign(MESSAGE, scheme, HASHES[digest])
        parameter = pss_parameter(digest, mask, salt)
        token.verify(public_session, key, CKM.RSA_PKCS_PSS, hashed, signature, parameter)
        if digest in PSS:
            token.verify(public_session, key, PSS[digest], MESSAGE, signature, parameter)
            token.verify_parts(public_session, key, PSS[digest], parts_of(MESSAGE), signature, parameter)

        def attempt(data, wrong, parameter=parameter):
            return refused(token, public_session, key, CKM.RSA_PKCS_PSS, data, wrong, parameter)

        other = "sha512" if digest != "sha512" else "sha384"
        assert attempt(hashed[::-1], signature) == CKR.SIGNATURE_INVALID
        assert attempt(hashed, signature[:-1] + bytes([signature[-1] ^ 4])) == CKR.SIGNATURE_INVALID
        assert attempt(hashed, bytes(256)) == CKR.SIGNATURE_INVALID
        assert attempt(hashed, b"\xff" * 256) == CKR.SIGNATURE_INVALID
        assert attempt(hashed, signature, pss_parameter(digest, other, salt)) == CKR.SIGNATURE_INVALID
        assert attempt(hashed, signature, pss_parameter(digest, mask, salt ^ 1)) in (
            CKR.SIGNATURE_INVALID,
            CKR.MECHANISM_PARAM_INVALID,  # one byte more than there is room for
        )
        assert attempt(hashed, signature[1:]) == CKR.SIGNATURE_LEN_RANGE
        assert attempt(hashed + b"x", signature) == CKR.DATA_LEN_RANGE
    no_room = pss_parameter(digest, digest, 1 << 63)
    assert (
        refused(token, public_session, key, CKM.RSA_PKCS_PSS, hashed, bytes(256), no_room)
        == CKR.MECHANISM_PARAM_INVALID
    )


def test_a_short_rsa_key(token, public_session):
    """512 bits, as old certificates have them: no TPM makes such keys, but what they signed can be verified."""
    p, q = SMALL
    private = p * q, pow(65537, -1, (p - 1) * (q - 1))
    key = token.create(public_session, rsa_object(p * q, 65537))
    info = bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(MESSAGE).digest()
    block = b"\0\1" + b"\xff" * (61 - len(info)) + b"\0" + info
    token.verify(public_session, key, CKM.SHA1_RSA_PKCS, MESSAGE, raise_to(private, block))
    token.verify(public_session, key, CKM.RSA_PKCS, info, raise_to(private, block))
    token.verify(public_session, key, CKM.RSA_X_509, b"x", raise_to(private, b"x"))
    assert refused(token, public_session, key, CKM.SHA1_RSA_PKCS, MESSAGE, block) == CKR.SIGNATURE_INVALID


def test_numbers_that_make_no_key(token, public_session, rsa_key):
    n = rsa_key.public_key().public_numbers().n
    session, verify = public_session, token.raw.C_VerifyInit
    even = token.create(session, rsa_object(n, 4))
    assert (
        verify(session, token.mechanism(CKM.RSA_PKCS_PSS, pss_parameter("sha1", "sha1", 0)), even) == CKR.KEY_SIZE_RANGE
    )
    for modulus, exponent in ((1 << 20000 | 1, 3), (1 << 8000 | 1, 1 << 256 | 1), ((1 << 511) - 1, 3)):
        key = token.create(session, rsa_object(modulus, exponent))
        signature = bytes((modulus.bit_length() + 7) // 8)
        assert refused(token, session, key, CKM.SHA256_RSA_PKCS, b"", signature) == CKR.KEY_SIZE_RANGE
    point = as_object(ec.generate_private_key(ec.SECP256R1()).public_key())
    off_curve = {**point, CKA.EC_POINT: point[CKA.EC_POINT][:-1] + bytes([point[CKA.EC_POINT][-1] ^ 1])}
    key = token.create(session, off_curve)
    assert verify(session, token.mechanism(CKM.ECDSA), key) == CKR.KEY_TYPE_INCONSISTENT


def test_calls_out_of_turn(token, public_session, rsa_key):
    key, session = token.create(public_session, as_object(rsa_key.public_key())), public_session
    sha256, plain = token.mechanism(CKM.SHA256_RSA_PKCS), token.mechanism(CKM.RSA_PKCS)
    assert token.raw.C_Verify(session, b"", 0, b"", 0) == CKR.OPERATION_NOT_INITIALIZED
    assert token.raw.C_VerifyInit(session, token.ffi.NULL, key) == CKR.ARGUMENTS_BAD
    token.C_VerifyInit(session, sha256, key)
    assert token.raw.C_VerifyInit(session, plain, key) == CKR.OPERATION_ACTIVE
    token.C_VerifyInit(session, token.ffi.NULL, 0)
    token.C_VerifyInit(session, plain, key)
    token.C_VerifyUpdate(session, b"x", 1)
    assert token.raw.C_Verify(session, b"x", 1, bytes(256), 256) == CKR.OPERATION_NOT_INITIALIZED
    token.C_VerifyInit(session, plain, key)
    assert token.raw.C_VerifyFinal(session, b"x", 0) == CKR.SIGNATURE_LEN_RANGE
    token.C_VerifyInit(session, plain, key)
    assert token.raw.C_VerifyFinal(session, bytes(256), 256) == CKR.SIGNATURE_INVALID
    token.C_VerifyInit(session, sha256, key)
    token.C_VerifyUpdate(session, b"x", 1)
    assert token.raw.C_Verify(session, b"x", 1, bytes(256), 256) == CKR.OPERATION_NOT_INITIALIZED
    token.C_VerifyInit(session, sha256, key)
    assert token.raw.C_Verify(session, token.ffi.NULL, 5, bytes(256), 256) == CKR.ARGUMENTS_BAD
    token.C_VerifyInit(session, sha256, key)


def test_what_a_key_may_not_do(token, session, rsa_key):
    public, private = ec_pair(token, session)
    pkcs1 = token.create(session, as_object(rsa_key.public_key()))
    idle = token.create(session, as_object(rsa_key.public_key(), VERIFY=FALSE))
    only = token.create(session, as_object(rsa_key.public_key(), ALLOWED_MECHANISMS=ulong(CKM.SHA256_RSA_PKCS)))
    for key, mechanism, rv in (
        (public, CKM.RSA_PKCS, CKR.KEY_TYPE_INCONSISTENT),
        (pkcs1, CKM.ECDSA, CKR.KEY_TYPE_INCONSISTENT),
        (private, CKM.ECDSA, CKR.KEY_TYPE_INCONSISTENT),
        (idle, CKM.RSA_PKCS, CKR.KEY_FUNCTION_NOT_PERMITTED),
        (only, CKM.RSA_PKCS, CKR.MECHANISM_INVALID),
        (public, CKM.EC_KEY_PAIR_GEN, CKR.MECHANISM_INVALID),
        (pkcs1, CKM.RSA_PKCS_PSS, CKR.MECHANISM_PARAM_INVALID),
        (99, CKM.ECDSA, CKR.KEY_HANDLE_INVALID),
    ):
        assert token.raw.C_VerifyInit(session, token.mechanism(mechanism), key) == rv


def test_keys_of_the_tpm(token, session, proxy):
    """What the TPM signs is verified without it, by the public keys of the token and without a login."""
    ec_public, ec_private = ec_pair(token, session)
    rsa_public, rsa_private = rsa_pair(token, session)
    by_ec = token.sign(session, ec_private, CKM.ECDSA_SHA384, MESSAGE)
    by_rsa = token.sign(session, rsa_private, CKM.SHA224_RSA_PKCS, MESSAGE)
    parameter = pss_parameter("sha3_256", "sha3_256", 32)
    hashed = hashlib.sha3_256(MESSAGE).digest()
    by_pss = token.sign(session, rsa_private, CKM.RSA_PKCS_PSS, hashed, parameter)
    token.logout(session)
    token.close(session)
    session = token.open(token.slots()[0], RO)
    proxy.clear()
    token.verify(session, ec_public, CKM.ECDSA_SHA384, MESSAGE, by_ec)
    token.verify(session, rsa_public, CKM.SHA224_RSA_PKCS, MESSAGE, by_rsa)
    token.verify(session, rsa_public, CKM.RSA_PKCS_PSS, hashed, by_pss, parameter)
    assert proxy.commands == []


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_every_curve_and_hash_of_the_tpm(token, session, curve):
    """The TPM takes hashes of four lengths only; the others are fitted in."""
    named = {CKA.TOKEN: FALSE}
    params = {**named, CKA.EC_PARAMS: NAMED[curve.name]}
    public, private = token.generate_pair(session, CKM.EC_KEY_PAIR_GEN, params, named)
    point = token.get(session, public, CKA.EC_POINT)
    size = 2 * ((curve.key_size + 7) // 8)
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve(), point[-size - 1 :])
    for digest, mechanism in ECDSA.items():
        signature = token.sign(session, private, mechanism, MESSAGE)
        assert len(signature) == size
        r, s = (int.from_bytes(half, "big") for half in (signature[: size // 2], signature[size // 2 :]))
        key.verify(utils.encode_dss_signature(r, s), MESSAGE, ec.ECDSA(HASHES[digest]))
        token.verify(session, public, mechanism, MESSAGE, signature)
    for length in (7, 24, 28, 64):
        data = bytes(range(1, 1 + length))
        token.verify(session, public, CKM.ECDSA, data, token.sign(session, private, CKM.ECDSA, data))


@pytest.mark.parametrize("bits", [1024, 2048])
def test_every_hash_of_pss_by_the_tpm(token, session, bits):
    public, private = rsa_pair(token, session, bits)
    numbers = [int.from_bytes(token.get(session, public, part), "big") for part in (CKA.PUBLIC_EXPONENT, CKA.MODULUS)]
    key = rsa.RSAPublicNumbers(*numbers).public_key()
    for digest, hash_ in HASHES.items():
        hashed = hashlib.new(digest, MESSAGE).digest()
        for mask, salt in ((digest, min(len(hashed), bits // 8 - len(hashed) - 2)), ("sha256", 0)):
            parameter = pss_parameter(digest, mask, salt)
            signature = token.sign(session, private, CKM.RSA_PKCS_PSS, hashed, parameter)
            key.verify(signature, MESSAGE, padding.PSS(padding.MGF1(HASHES[mask]), salt), hash_)
    for digest, mechanism in PKCS1.items():
        key.verify(token.sign(session, private, mechanism, MESSAGE), MESSAGE, padding.PKCS1v15(), HASHES[digest])


def test_a_private_session_key_goes_with_the_login(token, session, rsa_key):
    key = token.create(session, as_object(rsa_key.public_key(), PRIVATE=TRUE))
    signature = rsa_key.sign(MESSAGE, padding.PKCS1v15(), HASHES["sha256"])
    token.verify(session, key, CKM.SHA256_RSA_PKCS, MESSAGE, signature)
    token.C_VerifyInit(session, token.mechanism(CKM.SHA256_RSA_PKCS), key)
    token.logout(session)
    assert token.raw.C_VerifyUpdate(session, b"x", 1) == CKR.OPERATION_NOT_INITIALIZED
    assert token.raw.C_VerifyInit(session, token.mechanism(CKM.SHA256_RSA_PKCS), key) == CKR.KEY_HANDLE_INVALID
