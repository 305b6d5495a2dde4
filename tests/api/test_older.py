"""Mechanisms that software tokens have for older programs: MD5, DSA and DH; DES has a file of its own."""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest
from ciphers import fails
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptoki import USER
from keys import as_bytes, der_signature, rsa_pair, secret_key
from parameters import ulongs

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR

PIN = b"123456"
MESSAGE = b"what an older program signs"
OPEN = {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE, CKA.CLASS: ulong(CKO.SECRET_KEY)}
HASHES = {"SHA1": hashes.SHA1(), "SHA224": hashes.SHA224(), "SHA256": hashes.SHA256(), "SHA384": hashes.SHA384()}
HASHES["SHA512"] = hashes.SHA512()

# RFC 6979, appendix A.2.1: domain parameters, private value and signatures of "sample"
PRIME = int(
    "86F5CA03DCFEB225063FF830A0C769B9DD9D6153AD91D7CE27F787C43278B447E6533B86B18BED6E8A48B784A14C252C5BE0DBF60B86D638"
    "5BD2F12FB763ED8873ABFD3F5BA2E0A8C0A59082EAC056935E529DAF7C610467899C77ADEDFC846C881870B7B19B2B58F9BE0521A17002E3"
    "BDD6B86685EE90B3D9A1B02B782B1779",
    16,
)
SUBPRIME = 0x996F967F6C8E388D9E28D01E205FBA957A5698B1
BASE = int(
    "07B0F92546150B62514BB771E2A0C0CE387F03BDA6C56B505209FF25FD3C133D89BBCD97E904E09114D9A7DEFDEADFC9078EA544D2E401AE"
    "ECC40BB9FBBF78FD87995A10A1C27CB7789B594BA7EFB5C4326A9FE59A070E136DB77175464ADCA417BE5DCE2F40D10A46A3A3943F26AB7F"
    "D9C0398FF8C76EE0A56826A8A88F1DBD",
    16,
)
PRIVATE = 0x411602CB19A6CCC34494D79D98EF1E7ED5AF25F7
SIGNATURES = {
    "SHA1": "2E1A0C2562B2912CAAF89186FB0F42001585DA5529EFB6B0AFF2D7A68EB70CA313022253B9A88DF5",
    "SHA224": "4BC3B686AEA70145856814A6F1BB53346F02101E410697B92295D994D21EDD2F4ADA85566F6F94C1",
    "SHA256": "81F2F5850BE5BC123C43F71A3033E9384611C5454CDD914B65EB6C66A8AAAD27299BEE6B035F5E89",
    "SHA384": "07F2108557EE0E3921BC1774F1CA9B410B4CE65A54DF70456C86FAC10FAB47C1949AB83F2C6F7595",
    "SHA512": "16C3491F9B8C3FBBDD5E7A7B667057F0D8EE8E1B02C36A127A7B89EDBB72E4FFBC71DABC7D4FC69C",
}
DSA = {CKA.KEY_TYPE: ulong(CKK.DSA)}
NUMBERS = {CKA.PRIME: as_bytes(PRIME), CKA.SUBPRIME: as_bytes(SUBPRIME), CKA.BASE: as_bytes(BASE)}
DSA_PUBLIC = {**DSA, **NUMBERS, CKA.CLASS: ulong(CKO.PUBLIC_KEY), CKA.VALUE: as_bytes(pow(BASE, PRIVATE, PRIME))}
DSA_PRIVATE = {**DSA, **NUMBERS, CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.VALUE: as_bytes(PRIVATE)}


def number(data):
    return int.from_bytes(data, "big")


def generate(run, session, mechanism, template):
    handle = run.ulong()
    run.C_GenerateKey(session, run.mechanism(mechanism), *run.template(template), handle)
    return handle[0]


def parameters(run, session, mechanism, bits):
    """Make domain parameters and give their attributes, for a template of keys."""
    key = generate(run, session, mechanism, {CKA.CLASS: ulong(CKO.DOMAIN_PARAMETERS), CKA.PRIME_BITS: ulong(bits)})
    assert run.get(session, key, CKA.LOCAL) == TRUE
    assert number(run.get(session, key, CKA.PRIME)).bit_length() == bits
    types = (CKA.PRIME, CKA.SUBPRIME, CKA.BASE) if mechanism == CKM.DSA_PARAMETER_GEN else (CKA.PRIME, CKA.BASE)
    return {type_: run.get(session, key, type_) for type_ in types}


# -- MD5


def test_md5(token, session):
    """RFC 1321, appendix A.5."""
    assert token.digest(session, CKM.MD5, b"abc").hex() == "900150983cd24fb0d6963f7d28e17f72"


def test_hmac_with_md5(token, session):
    """RFC 2202, clause 2, the first and the second test case."""
    cases = ((b"\x0b" * 16, b"Hi There", "9294727a3638bb1c13f48ef8158bfc9d"),)
    cases += ((b"Jefe", b"what do ya want for nothing?", "750c783e6ab0b503eaa86e310a5db738"),)
    for value, data, code in cases:
        for key_type in (CKK.MD5_HMAC, CKK.GENERIC_SECRET):
            key = secret_key(token, session, value, key_type)
            assert token.sign(session, key, CKM.MD5_HMAC, data).hex() == code
            assert token.sign(session, key, CKM.MD5_HMAC_GENERAL, data, ulongs(5)).hex() == code[:10]
            token.verify(session, key, CKM.MD5_HMAC, data, bytes.fromhex(code))
            assert hmac.new(value, data, "md5").hexdigest() == code


def test_rsa_with_md5(token, session):
    public, private = rsa_pair(token, session)
    signature = token.sign(session, private, CKM.MD5_RSA_PKCS, MESSAGE)
    key = serialization.load_der_public_key(token.get(session, public, CKA.PUBLIC_KEY_INFO))
    key.verify(signature, hashlib.md5(MESSAGE).digest(), padding.PKCS1v15(), Prehashed(hashes.MD5()))
    token.verify(session, public, CKM.MD5_RSA_PKCS, MESSAGE, signature)
    fails(CKR.SIGNATURE_INVALID, token.verify, session, public, CKM.MD5_RSA_PKCS, b"other", signature)


def test_a_key_by_md5(token, session):
    base = secret_key(token, session, b"base key", DERIVE=TRUE)
    kind = {**OPEN, CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET)}
    key = token.derive(session, base, CKM.MD5_KEY_DERIVATION, kind)
    assert token.get(session, key, CKA.VALUE) == hashlib.md5(b"base key").digest()


# -- DSA


@pytest.mark.parametrize("hash_", SIGNATURES)
def test_published_dsa_signatures(token, session, hash_):
    public = token.create(session, DSA_PUBLIC)
    signature = bytes.fromhex(SIGNATURES[hash_])
    hashed, mechanism = hashlib.new(hash_, b"sample").digest(), getattr(CKM, f"DSA_{hash_}")
    token.verify(session, public, mechanism, b"sample", signature)
    token.verify_parts(session, public, mechanism, [b"sam", b"", b"ple"], signature)
    token.verify(session, public, CKM.DSA, hashed, signature)  # a longer hash by its first 160 bits
    for wrong in (bytes(40), signature[:-1] + b"\0", b"\xff" * 40):
        fails(CKR.SIGNATURE_INVALID, token.verify, session, public, mechanism, b"sample", wrong)
    fails(CKR.SIGNATURE_LEN_RANGE, token.verify, session, public, mechanism, b"sample", signature[:-1])


@pytest.mark.parametrize("bits", [1024, 2048])
def test_dsa_keys(token, session, bits):
    domain = parameters(token, session, CKM.DSA_PARAMETER_GEN, bits)
    kept = {CKA.TOKEN: TRUE, CKA.LABEL: b"dsa"}
    public, private = token.generate_pair(session, CKM.DSA_KEY_PAIR_GEN, {**domain, **kept}, kept)
    half = len(domain[CKA.SUBPRIME])
    key = serialization.load_der_public_key(token.get(session, public, CKA.PUBLIC_KEY_INFO))
    assert key.public_numbers().y == number(token.get(session, public, CKA.VALUE))
    assert token.get(session, private, CKA.PRIME) == domain[CKA.PRIME]
    for word, hash_ in HASHES.items():
        mechanism = getattr(CKM, f"DSA_{word}")
        signature = token.sign_parts(session, private, mechanism, [MESSAGE[:5], MESSAGE[5:]])
        key.verify(der_signature(signature), MESSAGE, hash_)
        token.verify(session, public, mechanism, MESSAGE, signature)
    key.verify(der_signature(token.sign(session, private, CKM.DSA, b"x" * 20)), b"x" * 20, Prehashed(hashes.SHA1()))
    for length in (20, 28, 32, 48, 64):  # Current Mechanisms 3.0, clause 2.2: what CKM_DSA takes
        data = os.urandom(length)
        token.verify(session, public, CKM.DSA, data, token.sign(session, private, CKM.DSA, data))
    for length in (0, 1, 19, 21, 31, 33, 63, 65):
        fails(CKR.DATA_LEN_RANGE, token.sign, session, private, CKM.DSA, bytes(length))
        fails(CKR.DATA_LEN_RANGE, token.verify, session, public, CKM.DSA, bytes(length), bytes(2 * half))


def test_a_dsa_key_after_another_login(token, session):
    kept = {CKA.TOKEN: TRUE, CKA.ID: b"dsa"}
    token.generate_pair(session, CKM.DSA_KEY_PAIR_GEN, {**NUMBERS, **kept}, kept)
    token.finalize()
    token.initialize()
    session = token.open(token.slots()[0])
    (public,) = token.find(session, {CKA.ID: b"dsa"})
    token.login(session, USER, PIN)
    (private,) = token.find(session, {CKA.ID: b"dsa", CKA.CLASS: ulong(CKO.PRIVATE_KEY)})
    token.verify(session, public, CKM.DSA_SHA1, MESSAGE, token.sign(session, private, CKM.DSA_SHA1, MESSAGE))


def test_a_dsa_key_from_outside(token, session):
    private = token.create(session, DSA_PRIVATE)
    key = dsa.DSAPublicNumbers(
        number(DSA_PUBLIC[CKA.VALUE]), dsa.DSAParameterNumbers(PRIME, SUBPRIME, BASE)
    ).public_key()
    key.verify(der_signature(token.sign(session, private, CKM.DSA_SHA256, MESSAGE)), MESSAGE, hashes.SHA256())
    assert token.get(session, private, CKA.LOCAL) == FALSE
    assert token.get(session, private, CKA.ALWAYS_SENSITIVE) == FALSE


@pytest.mark.parametrize("template", [DSA_PRIVATE, {}])
def test_private_values_never_leave(token, session, template):
    if template:
        private = token.create(session, template)
    else:
        _, private = token.generate_pair(session, CKM.DSA_KEY_PAIR_GEN, NUMBERS, {})
        assert token.get(session, private, CKA.ALWAYS_SENSITIVE) == token.get(session, private, CKA.LOCAL) == TRUE
    assert token.get(session, private, CKA.SENSITIVE) == TRUE
    assert token.get(session, private, CKA.EXTRACTABLE) == FALSE
    fails(CKR.ATTRIBUTE_SENSITIVE, token.get, session, private, CKA.VALUE)
    fails(CKR.ATTRIBUTE_TYPE_INVALID, token.get, session, private, CKA.CHECK_VALUE)
    for change in ({CKA.SENSITIVE: FALSE}, {CKA.EXTRACTABLE: TRUE}):
        with pytest.raises(Exception, match=r"READ_ONLY|VALUE_INVALID"):
            token.set(session, private, change)
    wrapping = secret_key(token, session, bytes(16), CKK.AES)
    fails(CKR.KEY_UNEXTRACTABLE, token.wrap, session, wrapping, private, CKM.AES_CBC_PAD, bytes(16))
    token.C_DigestInit(session, token.mechanism(CKM.SHA256))
    assert token.raw.C_DigestKey(session, private) == CKR.KEY_INDIGESTIBLE


def test_a_pin_for_each_use(token, session):
    _, private = token.generate_pair(session, CKM.DSA_KEY_PAIR_GEN, NUMBERS, {CKA.ALWAYS_AUTHENTICATE: TRUE})
    fails(CKR.USER_NOT_LOGGED_IN, token.sign, session, private, CKM.DSA_SHA1, MESSAGE)
    token.C_SignInit(session, token.mechanism(CKM.DSA_SHA1), private)
    token.login(session, 2, PIN)
    out, length = token.ffi.new("CK_BYTE[]", 40), token.ulong()
    length[0] = 40
    token.C_Sign(session, MESSAGE, len(MESSAGE), out, length)
    token.verify(
        session,
        token.create(session, DSA_PUBLIC | pair_value(token, session, private)),
        CKM.DSA_SHA1,
        MESSAGE,
        bytes(out),
    )


def pair_value(token, session, private):
    key = serialization.load_der_public_key(token.get(session, private, CKA.PUBLIC_KEY_INFO))
    return {CKA.VALUE: as_bytes(key.public_numbers().y)}


@pytest.mark.parametrize(
    ("change", "rv"),
    [
        ({CKA.PRIME: as_bytes(PRIME + 2)}, CKR.DOMAIN_PARAMS_INVALID),
        ({CKA.SUBPRIME: as_bytes(SUBPRIME + 2)}, CKR.DOMAIN_PARAMS_INVALID),
        ({CKA.BASE: b"\1"}, CKR.DOMAIN_PARAMS_INVALID),
        ({CKA.BASE: b"\2"}, CKR.DOMAIN_PARAMS_INVALID),
        ({CKA.SUBPRIME: b""}, CKR.KEY_SIZE_RANGE),
        ({CKA.PRIME: b"\xff" * 64}, CKR.KEY_SIZE_RANGE),
        ({CKA.PRIME: b"\xff" * 4000}, CKR.KEY_SIZE_RANGE),
    ],
)
def test_what_is_no_dsa(token, session, change, rv):
    fails(rv, token.generate_pair, session, CKM.DSA_KEY_PAIR_GEN, {**NUMBERS, **change}, {})
    fails(rv, token.create, session, {**DSA_PRIVATE, **change})
    fails(rv, token.create, session, {**DSA, **NUMBERS, **change, CKA.CLASS: ulong(CKO.DOMAIN_PARAMETERS)})


@pytest.mark.parametrize("value", [b"", b"\0", as_bytes(SUBPRIME)])
def test_what_is_no_private_value(token, session, value):
    fails(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, {**DSA_PRIVATE, CKA.VALUE: value})


@pytest.mark.parametrize("value", [b"", b"\1", as_bytes(PRIME)])
def test_what_is_no_public_value(token, session, value):
    fails(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, {**DSA_PUBLIC, CKA.VALUE: value})


def test_domain_parameters_from_outside(token, session):
    kind = {**DSA, CKA.CLASS: ulong(CKO.DOMAIN_PARAMETERS), CKA.LABEL: b"old", CKA.TOKEN: TRUE}
    made = token.create(session, {**kind, **NUMBERS})
    assert token.get(session, made, CKA.PRIME_BITS) == ulong(1024)
    assert token.get(session, made, CKA.LOCAL) == token.get(session, made, CKA.PRIVATE) == FALSE
    assert token.find(session, {CKA.CLASS: kind[CKA.CLASS]}) == [made]
    fails(CKR.ATTRIBUTE_TYPE_INVALID, token.get, session, made, CKA.SIGN)


# -- DH


@pytest.mark.parametrize("bits", [1024, 2048, 3072])
def test_dh(token, session, bits):
    domain = parameters(token, session, CKM.DH_PKCS_PARAMETER_GEN, bits)
    public, private = token.generate_pair(session, CKM.DH_PKCS_KEY_PAIR_GEN, domain, {CKA.DERIVE: TRUE})
    prime, base = number(domain[CKA.PRIME]), number(domain[CKA.BASE])
    theirs = number(b"a private value of somebody else" * 4)
    shared = pow(number(token.get(session, public, CKA.VALUE)), theirs, prime).to_bytes(bits // 8, "big")
    parameter = as_bytes(pow(base, theirs, prime))
    whole = token.derive(
        session, private, CKM.DH_PKCS_DERIVE, {**OPEN, CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET)}, parameter
    )
    assert token.get(session, whole, CKA.VALUE) == shared
    short = {**OPEN, CKA.KEY_TYPE: ulong(CKK.AES), CKA.VALUE_LEN: ulong(16)}
    key = token.derive(session, private, CKM.DH_PKCS_DERIVE, short, parameter)
    assert token.get(session, key, CKA.VALUE) == shared[-16:]
    for wrong in (b"", b"\0", b"\1", as_bytes(prime - 1), as_bytes(prime), as_bytes(prime + 1)):
        fails(CKR.MECHANISM_PARAM_INVALID, token.derive, session, private, CKM.DH_PKCS_DERIVE, short, wrong)
    long = {**short, CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET), CKA.VALUE_LEN: ulong(bits // 8 + 1)}
    fails(CKR.TEMPLATE_INCONSISTENT, token.derive, session, private, CKM.DH_PKCS_DERIVE, long, parameter)


def test_the_groups_are_the_published_ones():
    """RFC 2409, clause 6.2, and RFC 3526: primes in two ways, which no other number near them is."""
    from p11tpm.crypto.domain import generated

    ends = {1024: "ece65381ffffffffffffffff", 2048: "8aacaa68ffffffffffffffff", 4096: "34063199ffffffffffffffff"}
    for bits, end in ends.items():
        prime = number(generated(CKK.DH, bits)[CKA.PRIME])
        assert f"{prime:x}".endswith(end)
        assert f"{prime:x}".startswith("ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd1")
        assert pow(3, prime - 1, prime) == pow(3, prime // 2 - 1, prime // 2) == 1


def test_the_length_of_a_private_value(token, session):
    domain = parameters(token, session, CKM.DH_PKCS_PARAMETER_GEN, 1024)
    for bits in (160, 768, 1023):
        _, private = token.generate_pair(session, CKM.DH_PKCS_KEY_PAIR_GEN, domain, {CKA.VALUE_BITS: ulong(bits)})
        assert token.get(session, private, CKA.VALUE_BITS) == ulong(bits)
    for bits in (8, 1024, 0):
        wrong = {CKA.VALUE_BITS: ulong(bits)}
        fails(CKR.ATTRIBUTE_VALUE_INVALID, token.generate_pair, session, CKM.DH_PKCS_KEY_PAIR_GEN, domain, wrong)


def test_parameters_of_no_size(token, session):
    for mechanism, bits in ((CKM.DSA_PARAMETER_GEN, 512), (CKM.DH_PKCS_PARAMETER_GEN, 1025)):
        fails(CKR.KEY_SIZE_RANGE, generate, token, session, mechanism, {CKA.PRIME_BITS: ulong(bits)})
        fails(CKR.TEMPLATE_INCOMPLETE, generate, token, session, mechanism, {})
