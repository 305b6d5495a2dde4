"""The rules of each object class, row by row: required, default, for the token to say, fixed, one way (clause 4)."""

import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptoki import RO, SO, USER, Rv
from keys import CURVES, ec_pair
from test_objects import certificate, certificate_template

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR

PIN = b"123456"
READ_ONLY, TYPE, VALUE = CKR.ATTRIBUTE_READ_ONLY, CKR.ATTRIBUTE_TYPE_INVALID, CKR.ATTRIBUTE_VALUE_INVALID
SESSION = {CKA.TOKEN: FALSE}
POINT = b"\x04\x41" + ec.derive_private_key(7, ec.SECP256R1()).public_key().public_bytes(
    serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
)
CERTIFICATE = certificate_template(certificate())

# what makes an object of each class, and nothing that could be left out
LEAST = {
    "data": {CKA.CLASS: ulong(CKO.DATA)},
    "certificate": {type_: CERTIFICATE[type_] for type_ in (CKA.CLASS, CKA.CERTIFICATE_TYPE, CKA.VALUE)},
    "public": {
        CKA.CLASS: ulong(CKO.PUBLIC_KEY),
        CKA.KEY_TYPE: ulong(CKK.EC),
        CKA.EC_PARAMS: CURVES["p256"][0],
        CKA.EC_POINT: POINT,
    },
    "private": {
        CKA.CLASS: ulong(CKO.PRIVATE_KEY),
        CKA.KEY_TYPE: ulong(CKK.EC),
        CKA.EC_PARAMS: CURVES["p256"][0],
        CKA.VALUE: bytes(31) + b"\x07",
    },
    "secret": {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.AES), CKA.VALUE: bytes(range(16))},
}
KEYS = ("public", "private", "secret")

DEFAULTS = {
    "all": {CKA.TOKEN: FALSE, CKA.MODIFIABLE: TRUE, CKA.COPYABLE: TRUE, CKA.DESTROYABLE: TRUE, CKA.LABEL: b""},
    "data": {CKA.PRIVATE: TRUE, CKA.APPLICATION: b"", CKA.OBJECT_ID: b"", CKA.VALUE: b""},
    "certificate": {
        CKA.PRIVATE: FALSE,
        CKA.TRUSTED: FALSE,
        CKA.CERTIFICATE_CATEGORY: ulong(0),
        CKA.CHECK_VALUE: hashlib.sha1(CERTIFICATE[CKA.VALUE]).digest()[:3],
        CKA.START_DATE: b"",
        CKA.END_DATE: b"",
        CKA.ID: b"",
        CKA.URL: b"",
        CKA.JAVA_MIDP_SECURITY_DOMAIN: ulong(0),
    },
    "key": {
        CKA.ID: b"",
        CKA.START_DATE: b"",
        CKA.END_DATE: b"",
        CKA.DERIVE: FALSE,
        CKA.LOCAL: FALSE,
        CKA.KEY_GEN_MECHANISM: b"\xff" * 8,
    },
    "public": {CKA.PRIVATE: FALSE, CKA.SUBJECT: b"", CKA.VERIFY: TRUE, CKA.TRUSTED: FALSE},
    "private": {
        CKA.PRIVATE: TRUE,
        CKA.SUBJECT: b"",
        CKA.SENSITIVE: TRUE,
        CKA.EXTRACTABLE: FALSE,
        CKA.ALWAYS_SENSITIVE: FALSE,
        CKA.NEVER_EXTRACTABLE: FALSE,
        CKA.SIGN: TRUE,
        CKA.WRAP_WITH_TRUSTED: FALSE,
        CKA.ALWAYS_AUTHENTICATE: FALSE,
    },
    "secret": {
        CKA.PRIVATE: TRUE,
        CKA.SENSITIVE: FALSE,
        CKA.EXTRACTABLE: FALSE,
        CKA.ALWAYS_SENSITIVE: FALSE,
        CKA.NEVER_EXTRACTABLE: FALSE,
        CKA.ENCRYPT: TRUE,
        CKA.WRAP_WITH_TRUSTED: FALSE,
        CKA.TRUSTED: FALSE,
        CKA.VALUE_LEN: ulong(16),
    },
}

# what C_CreateObject refuses beside the least template: class, attributes, code
REFUSED = [
    *(("all", {type_: value}, READ_ONLY) for type_, value in {CKA.UNIQUE_ID: b"me"}.items()),
    ("all", {CKA.TOKEN: b"\x02"}, VALUE),
    ("all", {CKA.TOKEN: b""}, VALUE),
    ("all", {0x80000123: b"x"}, TYPE),
    ("data", {CKA.ID: b"1"}, TYPE),
    ("data", {CKA.SENSITIVE: TRUE}, TYPE),
    ("data", {CKA.TRUSTED: FALSE}, TYPE),
    ("certificate", {CKA.SENSITIVE: TRUE}, TYPE),
    ("certificate", {CKA.SIGN: TRUE}, TYPE),
    ("certificate", {CKA.TRUSTED: TRUE}, READ_ONLY),
    ("certificate", {CKA.CERTIFICATE_TYPE: ulong(1)}, VALUE),
    ("certificate", {CKA.CERTIFICATE_CATEGORY: ulong(4)}, VALUE),
    ("certificate", {CKA.JAVA_MIDP_SECURITY_DOMAIN: ulong(4)}, VALUE),
    ("certificate", {CKA.CHECK_VALUE: b"123"}, VALUE),
    ("certificate", {CKA.PUBLIC_KEY_INFO: b"0"}, VALUE),
    ("certificate", {CKA.VALUE: b"no certificate"}, VALUE),
    *(("certificate", {CKA.START_DATE: date}, VALUE) for date in (b"20261301", b"20260431", b"2026 101", b"2026")),
    *(("key", {CKA.END_DATE: date}, VALUE) for date in (b"20260001", b"20261131", b"20260229", b"19000229", b"0" * 8)),
    ("key", {CKA.LOCAL: TRUE}, READ_ONLY),
    ("key", {CKA.KEY_GEN_MECHANISM: ulong(CKM.AES_KEY_GEN)}, READ_ONLY),
    ("key", {CKA.ALLOWED_MECHANISMS: bytes(7)}, VALUE),
    ("key", {CKA.URL: b"x"}, TYPE),
    ("public", {CKA.SIGN: TRUE}, TYPE),
    ("public", {CKA.SENSITIVE: FALSE}, TYPE),
    ("public", {CKA.MODULUS: b"1"}, TYPE),
    ("public", {CKA.TRUSTED: TRUE}, READ_ONLY),
    ("public", {CKA.PUBLIC_KEY_INFO: b"0"}, VALUE),
    ("public", {CKA.EC_POINT: b"\x04\x01\x04"}, VALUE),
    ("public", {CKA.WRAP_TEMPLATE: b"x"}, VALUE),
    ("public", {CKA.UNWRAP_TEMPLATE: b""}, TYPE),
    ("private", {CKA.WRAP_TEMPLATE: b""}, TYPE),
    ("public", {CKA.CHECK_VALUE: b"123"}, TYPE),
    ("private", {CKA.VERIFY: TRUE}, TYPE),
    ("private", {CKA.TRUSTED: FALSE}, TYPE),
    ("private", {CKA.MODULUS: b"1"}, TYPE),
    ("private", {CKA.ALWAYS_SENSITIVE: TRUE}, READ_ONLY),
    ("private", {CKA.NEVER_EXTRACTABLE: TRUE}, READ_ONLY),
    ("private", {CKA.ALWAYS_AUTHENTICATE: TRUE, CKA.PRIVATE: FALSE}, CKR.TEMPLATE_INCONSISTENT),
    ("secret", {CKA.ALWAYS_AUTHENTICATE: TRUE}, TYPE),
    ("secret", {CKA.SUBJECT: b""}, TYPE),
    ("secret", {CKA.SIGN_RECOVER: TRUE}, TYPE),
    ("secret", {CKA.ALWAYS_SENSITIVE: TRUE}, READ_ONLY),
    ("secret", {CKA.NEVER_EXTRACTABLE: TRUE}, READ_ONLY),
    ("secret", {CKA.VALUE_LEN: ulong(16)}, READ_ONLY),
    ("secret", {CKA.TRUSTED: TRUE}, READ_ONLY),
    ("secret", {CKA.CHECK_VALUE: b"123"}, VALUE),
    ("secret", {CKA.VALUE: bytes(15)}, CKR.KEY_SIZE_RANGE),
]

# what C_SetAttributeValue does, one after the other: class, attribute, values and their codes
CHANGES = [
    ("all", CKA.LABEL, [(b"new", 0), ("Grüße".encode(), 0), (b"\xff\xfe\0", 0)]),
    ("all", CKA.COPYABLE, [(TRUE, 0), (FALSE, 0), (FALSE, 0), (TRUE, READ_ONLY)]),
    *(
        ("all", type_, [(value, READ_ONLY)])
        for type_, value in {
            CKA.CLASS: ulong(0),
            CKA.TOKEN: TRUE,
            CKA.PRIVATE: FALSE,
            CKA.MODIFIABLE: FALSE,
            CKA.DESTROYABLE: FALSE,
            CKA.UNIQUE_ID: b"x",
        }.items()
    ),
    ("data", CKA.VALUE, [(b"new", 0), (b"", 0)]),
    ("certificate", CKA.ID, [(b"new", 0)]),
    ("certificate", CKA.ISSUER, [(b"0", 0)]),
    ("certificate", CKA.SERIAL_NUMBER, [(b"0", 0)]),
    *(("certificate", type_, [(b"20260101", READ_ONLY)]) for type_ in (CKA.START_DATE, CKA.END_DATE)),
    *(("certificate", type_, [(b"0", READ_ONLY)]) for type_ in (CKA.SUBJECT, CKA.VALUE, CKA.URL, CKA.CHECK_VALUE)),
    ("certificate", CKA.TRUSTED, [(TRUE, READ_ONLY)]),
    ("key", CKA.ID, [(b"new", 0)]),
    ("key", CKA.START_DATE, [(b"20240229", 0), (b"", 0), (b"20250229", VALUE)]),
    ("key", CKA.DERIVE, [(TRUE, 0), (FALSE, 0), (b"\x02", VALUE)]),
    ("key", CKA.LOCAL, [(TRUE, READ_ONLY)]),
    ("key", CKA.KEY_TYPE, [(ulong(CKK.RSA), READ_ONLY)]),
    ("key", CKA.ALLOWED_MECHANISMS, [(ulong(CKM.ECDSA), READ_ONLY)]),
    ("public", CKA.VERIFY, [(FALSE, 0), (TRUE, 0)]),
    ("public", CKA.TRUSTED, [(TRUE, READ_ONLY)]),
    ("public", CKA.EC_POINT, [(POINT, READ_ONLY)]),
    ("private", CKA.SENSITIVE, [(TRUE, 0), (FALSE, READ_ONLY)]),
    ("private", CKA.EXTRACTABLE, [(FALSE, 0), (TRUE, READ_ONLY)]),
    ("private", CKA.SIGN, [(FALSE, 0), (TRUE, 0)]),
    ("private", CKA.WRAP_WITH_TRUSTED, [(TRUE, 0), (FALSE, READ_ONLY)]),
    ("private", CKA.ALWAYS_AUTHENTICATE, [(TRUE, READ_ONLY)]),
    ("private", CKA.VALUE, [(bytes(32), READ_ONLY)]),
    ("secret", CKA.SENSITIVE, [(TRUE, 0), (FALSE, READ_ONLY)]),
    ("secret", CKA.EXTRACTABLE, [(FALSE, 0), (TRUE, READ_ONLY)]),
    ("secret", CKA.WRAP_WITH_TRUSTED, [(TRUE, 0), (FALSE, READ_ONLY)]),
    ("secret", CKA.ENCRYPT, [(FALSE, 0), (TRUE, 0)]),
    ("secret", CKA.VALUE, [(bytes(16), READ_ONLY)]),
    ("secret", CKA.VALUE_LEN, [(ulong(16), READ_ONLY)]),
    ("secret", CKA.TRUSTED, [(TRUE, READ_ONLY)]),
]


def classes(name):
    return {"all": tuple(LEAST), "key": KEYS}.get(name, (name,))


def code(call, *args):
    try:
        call(*args)
    except Rv as refused:
        return refused.rv
    return CKR.OK


@pytest.mark.parametrize("kind", LEAST)
def test_what_a_template_leaves_out(token, session, kind):
    made = token.create(session, LEAST[kind])
    expected = {**DEFAULTS["all"], **(DEFAULTS["key"] if kind in KEYS else {}), **DEFAULTS[kind]}
    assert expected == {type_: token.get(session, made, type_) for type_ in expected}
    assert token.get(session, made, CKA.UNIQUE_ID)


@pytest.mark.parametrize("kind", LEAST)
def test_what_a_template_has_to_say(token, session, kind):
    for type_ in LEAST[kind]:
        if (kind, type_) == ("certificate", CKA.VALUE):
            continue
        template = {other: value for other, value in LEAST[kind].items() if other != type_}
        assert code(token.create, session, template) == CKR.TEMPLATE_INCOMPLETE, hex(type_)


def test_what_a_template_may_not_say(token, session):
    for name, more, expected in REFUSED:
        for kind in classes(name):
            assert (code(token.create, session, {**LEAST[kind], **more}), kind, more) == (expected, kind, more)


def test_what_changes(token, session):
    for name, type_, steps in CHANGES:
        for kind in classes(name):
            made = token.create(session, LEAST[kind])
            for value, expected in steps:
                assert (code(token.set, session, made, {type_: value}), kind, hex(type_)) == (
                    expected,
                    kind,
                    hex(type_),
                )
                if not expected:
                    assert value == token.get(session, made, type_)
            token.C_DestroyObject(session, made)


@pytest.mark.parametrize("kind", LEAST)
def test_objects_that_are_not_modifiable_or_destroyable(token, session, kind):
    made = token.create(session, {**LEAST[kind], CKA.MODIFIABLE: FALSE, CKA.DESTROYABLE: FALSE})
    assert code(token.set, session, made, {CKA.LABEL: b"x"}) == CKR.ACTION_PROHIBITED
    assert token.raw.C_DestroyObject(session, made) == CKR.ACTION_PROHIBITED


@pytest.mark.parametrize("kind", LEAST)
def test_session_objects_change_in_read_only_sessions(token, session, kind):
    read_only = token.open(token.slots()[0], RO)
    made = token.create(read_only, LEAST[kind])
    token.set(read_only, made, {CKA.LABEL: b"new"})
    assert token.get(session, made, CKA.LABEL) == b"new"
    kept = token.create(session, {**LEAST[kind], CKA.TOKEN: TRUE})
    assert code(token.set, read_only, kept, {CKA.LABEL: b"new"}) == CKR.SESSION_READ_ONLY
    assert code(token.create, read_only, {**LEAST[kind], CKA.TOKEN: TRUE}) == CKR.SESSION_READ_ONLY


@pytest.mark.parametrize("kind", LEAST)
def test_private_objects_need_a_login(token, session, kind):
    token.logout(session)
    for token_object in (TRUE, FALSE):
        template = {**LEAST[kind], CKA.TOKEN: token_object}
        assert code(token.create, session, {**template, CKA.PRIVATE: TRUE}) == CKR.USER_NOT_LOGGED_IN
        kept_key = kind in {"private", "secret"} and token_object == TRUE
        expected = CKR.USER_NOT_LOGGED_IN if kept_key else CKR.OK
        assert code(token.create, session, {**template, CKA.PRIVATE: FALSE}) == expected


@pytest.mark.parametrize("sensitive", [TRUE, FALSE])
@pytest.mark.parametrize("extractable", [TRUE, FALSE])
def test_a_value_is_read_only_where_both_attributes_allow_it(token, session, sensitive, extractable):
    template = {**LEAST["secret"], CKA.SENSITIVE: sensitive, CKA.EXTRACTABLE: extractable}
    for token_object in (FALSE, TRUE):
        made = token.create(session, {**template, CKA.TOKEN: token_object})
        if (sensitive, extractable) == (FALSE, TRUE):
            assert token.get(session, made, CKA.VALUE) == bytes(range(16))
            token.set(session, made, {CKA.SENSITIVE: TRUE})
        assert code(token.get, session, made, CKA.VALUE) == CKR.ATTRIBUTE_SENSITIVE


@pytest.mark.parametrize("protection", [{}, {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE}])
@pytest.mark.parametrize("token_object", [TRUE, FALSE])
def test_no_search_tells_whether_a_guess_at_a_value_is_right(token, session, protection, token_object):
    made = token.create(session, {**LEAST["secret"], **protection, CKA.TOKEN: token_object})
    check = token.get(session, made, CKA.CHECK_VALUE)
    for kind in ({}, {CKA.CLASS: ulong(CKO.SECRET_KEY)}):
        assert token.find(session, {**kind, CKA.VALUE: bytes(range(16))}) == []
        assert token.find(session, {**kind, CKA.CHECK_VALUE: check}) == []
    private = token.create(session, {**LEAST["private"], CKA.TOKEN: token_object})
    assert private not in token.find(session, {CKA.VALUE: LEAST["private"][CKA.VALUE]})
    data = token.create(session, {**LEAST["data"], CKA.VALUE: bytes(range(16))})
    assert token.find(session, {CKA.VALUE: bytes(range(16))}) == [data]


@pytest.mark.parametrize("where", [{}, {CKA.TOKEN: TRUE}])
def test_check_values_of_generated_keys(token, session, where):
    """An empty one in a template asks for none; any other one cannot be right (clause 4.10.2)."""
    template = {**where, CKA.VALUE_LEN: ulong(16)}
    handle, mechanism = token.ulong(), token.mechanism(CKM.AES_KEY_GEN)
    token.C_GenerateKey(session, mechanism, *token.template({**template, CKA.CHECK_VALUE: b""}), handle)
    assert token.get(session, handle[0], CKA.CHECK_VALUE) == b""
    token.C_GenerateKey(session, mechanism, *token.template(template), handle)
    assert len(token.get(session, handle[0], CKA.CHECK_VALUE)) == 3
    wrong = {**template, CKA.CHECK_VALUE: b"123"}
    assert code(token.C_GenerateKey, session, mechanism, *token.template(wrong), handle) == CKR.ATTRIBUTE_VALUE_INVALID


def test_check_values(token, session):
    aes = LEAST["secret"][CKA.VALUE]
    expected = Cipher(algorithms.AES(aes), modes.ECB()).encryptor().update(bytes(16))[:3]
    for more in ({}, {CKA.CHECK_VALUE: expected}, {CKA.TOKEN: TRUE}):
        assert expected == token.get(session, token.create(session, {**LEAST["secret"], **more}), CKA.CHECK_VALUE)
    unwanted = token.create(session, {**LEAST["secret"], CKA.CHECK_VALUE: b""})
    assert token.get(session, unwanted, CKA.CHECK_VALUE) == b""
    generic = {**LEAST["secret"], CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET)}
    assert token.get(session, token.create(session, generic), CKA.CHECK_VALUE) == hashlib.sha1(aes).digest()[:3]
    short = token.create(session, {**generic, CKA.VALUE: b"short"})
    assert token.get(session, short, CKA.CHECK_VALUE) == b"", "three bytes would tell too much of it"
    unwanted = token.create(session, {**LEAST["certificate"], CKA.CHECK_VALUE: b""})
    assert token.get(session, unwanted, CKA.CHECK_VALUE) == b""


def test_a_certificate_elsewhere(token, session):
    """Only a URL and two hashes can stand for the value (clause 4.6.3)."""
    least = {type_: value for type_, value in LEAST["certificate"].items() if type_ != CKA.VALUE}
    least[CKA.SUBJECT] = b"0"
    elsewhere = {
        CKA.URL: b"https://example.org/c.der",
        CKA.HASH_OF_SUBJECT_PUBLIC_KEY: bytes(20),
        CKA.HASH_OF_ISSUER_PUBLIC_KEY: bytes(20),
    }
    made = token.create(session, {**least, **elsewhere})
    assert token.get(session, made, CKA.VALUE) == b""
    for type_ in elsewhere:
        assert code(token.create, session, {**least, **elsewhere, type_: b""}) == CKR.TEMPLATE_INCOMPLETE


def test_trust_is_for_the_so_to_set(token, session):
    public = {CKA.TOKEN: TRUE, CKA.PRIVATE: FALSE}
    made = [token.create(session, {**LEAST[kind], **public}) for kind in ("certificate", "public")]
    token.logout(session)
    token.login(session, SO, b"so-secret")
    created = token.create(session, {**LEAST["certificate"], **public, CKA.TRUSTED: TRUE, CKA.LABEL: b"by the SO"})
    for one in made:
        token.set(session, one, {CKA.TRUSTED: TRUE})
    token.logout(session)
    token.login(session, USER, PIN)
    for one in (*made, created):
        assert token.get(session, one, CKA.TRUSTED) == TRUE
        assert code(token.set, session, one, {CKA.TRUSTED: FALSE}) == READ_ONLY
        token.set(session, one, {CKA.LABEL: b"a user may"})
        assert token.get(session, one, CKA.TRUSTED) == TRUE
        copy = token.ulong()
        token.C_CopyObject(session, one, *token.template({}), copy)
        assert token.get(session, copy[0], CKA.TRUSTED) == FALSE, "a copy is the user's work"


def test_allowed_mechanisms(token, session):
    allowed = {CKA.ALLOWED_MECHANISMS: ulong(CKM.ECDSA_SHA256) + ulong(CKM.ECDSA)}
    _, private = ec_pair(token, session, private=allowed)
    assert allowed[CKA.ALLOWED_MECHANISMS] == token.get(session, private, CKA.ALLOWED_MECHANISMS)
    assert token.raw.C_SignInit(session, token.mechanism(CKM.ECDSA_SHA384), private) == CKR.MECHANISM_INVALID
    token.sign(session, private, CKM.ECDSA_SHA256, b"data")


def test_an_empty_list_allows_no_mechanism(token, session):
    """A key without a list may be used with all of them, and says that it has none."""
    public, private = ec_pair(token, session, private={CKA.ALLOWED_MECHANISMS: b""})
    copy = token.ulong()
    token.C_CopyObject(session, private, *token.template({}), copy)
    for key in (private, copy[0]):
        assert token.get(session, key, CKA.ALLOWED_MECHANISMS) == b""
        for mechanism in (CKM.ECDSA, CKM.ECDSA_SHA256):
            assert token.raw.C_SignInit(session, token.mechanism(mechanism), key) == CKR.MECHANISM_INVALID
    assert token.find(session, {CKA.ALLOWED_MECHANISMS: b""}) == [private, copy[0]]
    assert code(token.get, session, public, CKA.ALLOWED_MECHANISMS) == CKR.ATTRIBUTE_TYPE_INVALID


def test_identifiers_are_unique(token, session):
    made = [token.create(session, LEAST[kind]) for kind in LEAST for _ in range(2)]
    unique = [token.get(session, one, CKA.UNIQUE_ID) for one in made]
    assert len(set(unique)) == len(made)
    assert made[3:4] == token.find(session, {CKA.UNIQUE_ID: unique[3]})
