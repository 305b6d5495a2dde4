"""Private keys that are not sensitive, or extractable: accepted, and never more readable than they say.

A token key is in the TPM whatever its attributes wish; an extractable session key is in software and leaves as it says.
"""

import pytest
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import dh, dsa, ec, padding, rsa
from cryptoki import USER, Rv
from keys import CURVES, as_object, der_signature, public_key, secret_key

from api.conftest import PIN
from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKD, CKK, CKM, CKO, CKR

OPEN = {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE}
KEK = bytes(range(32))
RSA_PARTS = {
    CKA.PRIVATE_EXPONENT: lambda numbers: numbers.d,
    CKA.PRIME_1: lambda numbers: numbers.p,
    CKA.PRIME_2: lambda numbers: numbers.q,
    CKA.EXPONENT_1: lambda numbers: numbers.dmp1,
    CKA.EXPONENT_2: lambda numbers: numbers.dmq1,
    CKA.COEFFICIENT: lambda numbers: numbers.iqmp,
}
KINDS = {"rsa": CKK.RSA, "p256": CKK.EC, "p384": CKK.EC, "p521": CKK.EC}
SECRET_PART = {CKK.RSA: CKA.PRIVATE_EXPONENT, CKK.EC: CKA.VALUE}


def refused(rv, call, *args):
    with pytest.raises(Rv) as error:
        call(*args)
    assert error.value == rv


def flags(run, session, key):
    types = (CKA.SENSITIVE, CKA.EXTRACTABLE, CKA.ALWAYS_SENSITIVE, CKA.NEVER_EXTRACTABLE)
    return tuple(run.get(session, key, type_) == TRUE for type_ in types)


def pair(run, session, kind, **private):
    named = {getattr(CKA, word): value for word, value in private.items()}
    if kind == "rsa":
        public = {CKA.MODULUS_BITS: ulong(2048), CKA.PUBLIC_EXPONENT: b"\x01\x00\x01"}
        return run.generate_pair(session, CKM.RSA_PKCS_KEY_PAIR_GEN, public, {**named, CKA.SIGN: TRUE})
    public = {CKA.EC_PARAMS: CURVES[kind][0]}
    return run.generate_pair(session, CKM.EC_KEY_PAIR_GEN, public, {**named, CKA.SIGN: TRUE, CKA.DERIVE: TRUE})


def imported(run, session, key, **more):
    """Make an object of a private key of the package cryptography."""
    named = {getattr(CKA, word): value for word, value in more.items()}
    kind = {CKA.CLASS: ulong(CKO.PRIVATE_KEY)}
    numbers = key.private_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        public = {CKA.MODULUS: octets(numbers.public_numbers.n), CKA.PUBLIC_EXPONENT: b"\x01\x00\x01"}
        parts = {type_: octets(part(numbers)) for type_, part in RSA_PARTS.items()}
        return run.create(session, {**kind, CKA.KEY_TYPE: ulong(CKK.RSA), **public, **parts, **named})
    curve = next(params for params, curve in CURVES.values() if curve.name == key.curve.name)
    kind |= {CKA.KEY_TYPE: ulong(CKK.EC), CKA.EC_PARAMS: curve, CKA.DERIVE: TRUE}
    return run.create(session, {**kind, CKA.VALUE: octets(numbers.private_value), **named})


def octets(number):
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def kek(run, session, **more):
    return secret_key(run, session, KEK, CKK.AES, **more)


def pkcs8(key):
    form = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8
    return key.private_bytes(*form, serialization.NoEncryption())


def check_signature(run, session, private, public):
    """Sign with a key and verify with the package cryptography."""
    if isinstance(public, rsa.RSAPublicKey):
        signature = run.sign(session, private, CKM.SHA256_RSA_PKCS, b"message")
        public.verify(signature, b"message", padding.PKCS1v15(), hashes.SHA256())
    else:
        signature = run.sign(session, private, CKM.ECDSA_SHA256, b"message")
        public.verify(der_signature(signature), b"message", ec.ECDSA(hashes.SHA256()))


# -- neither sensitive nor extractable


@pytest.mark.parametrize("token_object", [TRUE, FALSE])
@pytest.mark.parametrize("kind", ["rsa", "p256"])
def test_a_key_that_is_neither_sensitive_nor_extractable_is_in_the_tpm(token, session, proxy, kind, token_object):
    wished = {"SENSITIVE": FALSE, "EXTRACTABLE": FALSE, "TOKEN": token_object}
    proxy.clear()
    public, private = pair(token, session, kind, **wished)
    assert proxy.names == ["Create"]
    assert flags(token, session, private) == (False, False, False, True)
    check_signature(token, session, private, public_key(token, session, public))
    key_type = KINDS[kind]
    refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, private, SECRET_PART[key_type])
    refused(CKR.KEY_UNEXTRACTABLE, token.wrap, session, kek(token, session), private, CKM.AES_KEY_WRAP_PAD)
    refused(CKR.ATTRIBUTE_READ_ONLY, token.set, session, private, {CKA.EXTRACTABLE: TRUE})
    token.set(session, private, {CKA.SENSITIVE: TRUE})
    assert flags(token, session, private) == (True, False, False, True)
    refused(CKR.ATTRIBUTE_READ_ONLY, token.set, session, private, {CKA.SENSITIVE: FALSE})


def test_all_the_other_ways_to_a_key_that_is_neither(token, session):
    wished = {"SENSITIVE": FALSE, "EXTRACTABLE": FALSE}
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)):
        made = imported(token, session, key, **wished)
        wrapped = keywrap.aes_key_wrap_with_padding(KEK, pkcs8(key))
        key_type = CKK.RSA if isinstance(key, rsa.RSAPrivateKey) else CKK.EC
        template = {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(key_type), CKA.EXTRACTABLE: FALSE}
        template[CKA.SENSITIVE] = FALSE
        unwrapped = token.unwrap(session, kek(token, session), CKM.AES_KEY_WRAP_PAD, wrapped, template)
        copied = copy(token, session, made, {CKA.LABEL: b"copy"})
        for handle in (made, unwrapped, copied):
            assert flags(token, session, handle) == (False, False, False, False)
            refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, handle, SECRET_PART[key_type])
            check_signature(token, session, handle, key.public_key())
    sensitive = copy(token, session, made, {CKA.SENSITIVE: TRUE})
    assert flags(token, session, sensitive) == (True, False, False, False)
    refused(CKR.ATTRIBUTE_READ_ONLY, copy, token, session, sensitive, {CKA.SENSITIVE: FALSE})


def copy(run, session, key, changes):
    handle = run.ulong()
    run.C_CopyObject(session, key, *run.template(changes), handle)
    return handle[0]


# -- extractable keys of the token


@pytest.mark.parametrize("sensitive", [TRUE, FALSE])
@pytest.mark.parametrize("kind", ["rsa", "p256"])
def test_an_extractable_token_key_stays_in_the_tpm(token, session, proxy, kind, sensitive):
    proxy.clear()
    public, private = pair(token, session, kind, TOKEN=TRUE, EXTRACTABLE=TRUE, SENSITIVE=sensitive)
    assert proxy.names == ["Create"]
    assert flags(token, session, private) == (sensitive == TRUE, True, sensitive == TRUE, False)
    check_signature(token, session, private, public_key(token, session, public))
    stays_in_the_tpm(token, session, private, KINDS[kind])
    in_session = copy(token, session, private, {CKA.TOKEN: FALSE})
    stays_in_the_tpm(token, session, in_session, KINDS[kind])
    token.logout(session)
    token.login(session, USER, PIN)
    (again,) = token.find(session, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)})
    stays_in_the_tpm(token, session, again, KINDS[kind])


def stays_in_the_tpm(run, session, private, key_type):
    assert run.get(session, private, CKA.EXTRACTABLE) == TRUE
    parts = RSA_PARTS if key_type == CKK.RSA else (CKA.VALUE,)
    for type_ in parts:
        refused(CKR.ATTRIBUTE_SENSITIVE, run.get, session, private, type_)
    refused(CKR.KEY_NOT_WRAPPABLE, run.wrap, session, kek(run, session), private, CKM.AES_KEY_WRAP_PAD)


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_extractable_token_keys_from_outside(token, session, kind):
    key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    key_type = CKK.RSA if kind == "rsa" else CKK.EC
    made = imported(token, session, key, TOKEN=TRUE, SENSITIVE=FALSE, EXTRACTABLE=TRUE)
    wrapped = keywrap.aes_key_wrap_with_padding(KEK, pkcs8(key))
    template = {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(key_type), CKA.TOKEN: TRUE, CKA.SENSITIVE: FALSE}
    unwrapped = token.unwrap(session, kek(token, session), CKM.AES_KEY_WRAP_PAD, wrapped, template)
    for handle in (made, unwrapped):
        stays_in_the_tpm(token, session, handle, key_type)
        check_signature(token, session, handle, key.public_key())


# -- extractable keys of a session


@pytest.mark.parametrize("kind", KINDS)
def test_an_extractable_session_key_is_in_software_and_leaves(token, session, proxy, kind):
    proxy.clear()
    public, private = pair(token, session, kind, SENSITIVE=FALSE, EXTRACTABLE=TRUE)
    assert flags(token, session, private) == (False, True, False, False)
    outside = public_key(token, session, public)
    check_signature(token, session, private, outside)
    wrapped = token.wrap(session, kek(token, session), private, CKM.AES_KEY_WRAP_PAD)
    key = serialization.load_der_private_key(keywrap.aes_key_unwrap_with_padding(KEK, wrapped), None)
    assert key.public_key() == outside
    numbers = key.private_numbers()
    parts = RSA_PARTS if kind == "rsa" else {CKA.VALUE: lambda numbers: numbers.private_value}
    for type_, part in parts.items():
        assert int.from_bytes(token.get(session, private, type_), "big") == part(numbers)
    assert proxy.names == [], "the TPM has nothing to do with it"
    token.set(session, private, {CKA.SENSITIVE: TRUE})
    for type_ in parts:
        refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, private, type_)
    token.set(session, private, {CKA.EXTRACTABLE: FALSE})
    refused(CKR.KEY_UNEXTRACTABLE, token.wrap, session, kek(token, session), private, CKM.AES_KEY_WRAP_PAD)
    check_signature(token, session, private, outside)


def test_everything_that_an_rsa_key_in_software_does(token, session, proxy):
    proxy.clear()
    key = rsa.generate_private_key(65537, 2048)
    made = imported(token, session, key, EXTRACTABLE=TRUE, SIGN_RECOVER=TRUE, UNWRAP=TRUE)
    public = key.public_key()
    pss = ulong(CKM.SHA256) + ulong(2) + ulong(32)  # CKG_MGF1_SHA256
    signature = token.sign(session, made, CKM.SHA256_RSA_PKCS_PSS, b"message", pss)
    public.verify(signature, b"message", padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    raw = token.sign(session, made, CKM.RSA_X_509, b"\x02")
    assert pow(int.from_bytes(raw, "big"), 65537, public.public_numbers().n) == 2
    assert token.sign(session, made, CKM.RSA_X_509, b"\x02") == raw, "blinding does not show"
    encrypted = public.encrypt(b"data", padding.PKCS1v15())
    assert token.crypt("Decrypt", session, made, CKM.RSA_PKCS, encrypted) == b"data"
    template = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.AES)}
    unwrapped = token.unwrap(session, made, CKM.RSA_PKCS, public.encrypt(KEK, padding.PKCS1v15()), template)
    assert token.get(session, unwrapped, CKA.VALUE) == KEK
    assert proxy.names == []
    assert token.raw.C_SignInit(session, token.mechanism(CKM.RSA_X_509), made) == CKR.OK
    too_great = b"\xff" * 256
    out, length = token.ffi.new("CK_BYTE[]", 256), token.ulong()
    length[0] = 256
    assert token.raw.C_Sign(session, too_great, 256, out, length) == CKR.DATA_INVALID


@pytest.mark.parametrize("kind", ["p256", "p384", "p521"])
def test_agreements_of_keys_in_software(token, session, proxy, kind):
    proxy.clear()
    curve = CURVES[kind][1]
    key, peer = ec.generate_private_key(curve), ec.generate_private_key(curve)
    made = imported(token, session, key, EXTRACTABLE=TRUE)
    form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    point = token.ffi.from_buffer(peer.public_key().public_bytes(*form))
    address = int(token.ffi.cast("CK_ULONG", point))
    parameter = b"".join(map(ulong, (CKD.NULL, 0, 0, len(point), address)))
    template = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET), **OPEN}
    derived = token.derive(session, made, CKM.ECDH1_DERIVE, template, parameter)
    assert token.get(session, derived, CKA.VALUE) == key.exchange(ec.ECDH(), peer.public_key())
    assert proxy.names == []


@pytest.mark.parametrize("kind", ["rsa", "p256"])
def test_a_copy_goes_into_the_tpm_where_a_new_key_would(token, session, proxy, kind):
    public, private = pair(token, session, kind, SENSITIVE=FALSE, EXTRACTABLE=TRUE)
    outside = public_key(token, session, public)
    again = copy(token, session, private, {CKA.LABEL: b"again"})
    assert token.get(session, again, SECRET_PART[KINDS[kind]]) == token.get(session, private, SECRET_PART[KINDS[kind]])
    proxy.clear()
    kept = copy(token, session, private, {CKA.TOKEN: TRUE})
    assert "Import" in proxy.names
    stays_in_the_tpm(token, session, kept, KINDS[kind])
    closed = copy(token, session, private, {CKA.EXTRACTABLE: FALSE})
    refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, closed, SECRET_PART[KINDS[kind]])
    for handle in (again, kept, closed):
        proxy.clear()
        check_signature(token, session, handle, outside)
        assert bool(proxy.names) == (handle != again)
        assert flags(token, session, handle)[2:] == (False, False)


def test_extractable_keys_need_no_login_when_they_are_public_objects(token):
    session = token.open(token.slots()[0])
    refused(CKR.USER_NOT_LOGGED_IN, pair, token, session, "p256")
    public, private = pair(token, session, "p256", PRIVATE=FALSE, SENSITIVE=FALSE, EXTRACTABLE=TRUE)
    check_signature(token, session, private, public_key(token, session, public))
    assert len(token.get(session, private, CKA.VALUE)) == 32


def test_the_pin_before_each_use_is_asked_of_keys_in_software_too(token, session):
    public, private = pair(token, session, "p256", EXTRACTABLE=TRUE, ALWAYS_AUTHENTICATE=TRUE)
    refused(CKR.USER_NOT_LOGGED_IN, token.sign, session, private, CKM.ECDSA, bytes(32))
    token.C_SignInit(session, token.mechanism(CKM.ECDSA_SHA256), private)
    token.login(session, 2, PIN)  # CKU_CONTEXT_SPECIFIC
    signature = token.bytes_of(lambda out, length: token.C_Sign(session, b"message", 7, out, length))
    public_key(token, session, public).verify(der_signature(signature), b"message", ec.ECDSA(hashes.SHA256()))


# -- wrapping of private keys


def test_what_wraps_private_keys(token, session):
    _, private = pair(token, session, "p256", EXTRACTABLE=TRUE)
    by = kek(token, session)
    for mechanism, parameter in ((CKM.AES_ECB, b""), (CKM.AES_CBC, bytes(16))):
        refused(CKR.KEY_NOT_WRAPPABLE, token.wrap, session, by, private, mechanism, parameter)
    rsa_public = token.create(session, as_object(rsa.generate_private_key(65537, 1024).public_key(), WRAP=TRUE))
    refused(CKR.KEY_SIZE_RANGE, token.wrap, session, rsa_public, private, CKM.RSA_PKCS)
    template = {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(CKK.EC), **OPEN}
    for mechanism, parameter in ((CKM.AES_CBC_PAD, bytes(16)), (CKM.AES_KEY_WRAP_PAD, b"")):
        wrapped = token.wrap(session, by, private, mechanism, parameter)
        back = token.unwrap(session, by, mechanism, wrapped, template, parameter)
        assert token.get(session, back, CKA.PUBLIC_KEY_INFO) == token.get(session, private, CKA.PUBLIC_KEY_INFO)
        assert len(token.get(session, back, CKA.VALUE)) == 32


@pytest.mark.filterwarnings("ignore:Diffie-Hellman")
@pytest.mark.parametrize("token_object", [TRUE, FALSE])
def test_keys_over_a_prime_leave_as_they_say(token, session, token_object):
    """No TPM has them, so the token's are in software, too."""
    dsa_key = dsa.generate_private_key(1024)
    numbers = dsa_key.private_numbers()
    domain = numbers.public_numbers.parameter_numbers
    dsa_template = {CKA.PRIME: octets(domain.p), CKA.SUBPRIME: octets(domain.q), CKA.BASE: octets(domain.g)}
    dh_key = dh.generate_parameters(2, 1024).generate_private_key()
    dh_numbers = dh_key.private_numbers()
    dh_domain = dh_numbers.public_numbers.parameter_numbers
    dh_template = {CKA.PRIME: octets(dh_domain.p), CKA.BASE: octets(dh_domain.g)}
    by = kek(token, session)
    for key_type, template, number, key in (
        (CKK.DSA, dsa_template, numbers.x, dsa_key),
        (CKK.DH, dh_template, dh_numbers.x, dh_key),
    ):
        kind = {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(key_type), CKA.TOKEN: token_object}
        made = token.create(session, {**kind, **template, CKA.VALUE: octets(number), **OPEN})
        assert int.from_bytes(token.get(session, made, CKA.VALUE), "big") == number
        wrapped = token.wrap(session, by, made, CKM.AES_KEY_WRAP_PAD)
        outside = serialization.load_der_private_key(keywrap.aes_key_unwrap_with_padding(KEK, wrapped), None)
        assert outside.private_numbers() == key.private_numbers()
        back = token.unwrap(session, by, CKM.AES_KEY_WRAP_PAD, wrapped, {**kind, **OPEN})
        assert token.get(session, back, CKA.VALUE) == token.get(session, made, CKA.VALUE)
        foreign = keywrap.aes_key_wrap_with_padding(KEK, pkcs8(key))
        token.unwrap(session, by, CKM.AES_KEY_WRAP_PAD, foreign, kind)
        closed = token.create(session, {**kind, **template, CKA.VALUE: octets(number), CKA.EXTRACTABLE: FALSE})
        refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, closed, CKA.VALUE)
        refused(CKR.KEY_UNEXTRACTABLE, token.wrap, session, by, closed, CKM.AES_KEY_WRAP_PAD)
