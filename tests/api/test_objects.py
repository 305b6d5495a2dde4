"""Objects: made, found, read, changed, destroyed; the users who may see them and do that."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from cryptoki import RO, USER, Rv
from keys import CURVES, ec_pair, public_key, rsa_pair

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKC, CKK, CKM, CKO, CKR, UNAVAILABLE

PIN = b"123456"
DATA = {CKA.CLASS: ulong(CKO.DATA), CKA.LABEL: b"note", CKA.VALUE: b"the value of a data object"}


def refused(rv, call, *args):
    with pytest.raises(Rv) as error:
        call(*args)
    assert error.value == rv


def certificate(name="p11tpm test"):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(0x8123)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


def certificate_template(cert, **more):
    return {
        CKA.CLASS: ulong(CKO.CERTIFICATE),
        CKA.CERTIFICATE_TYPE: ulong(CKC.X_509),
        CKA.VALUE: cert.public_bytes(serialization.Encoding.DER),
        CKA.TOKEN: TRUE,
        **more,
    }


def test_attributes_of_a_generated_pair(token, session):
    public, private = ec_pair(token, session)
    expected = {
        public: {CKA.CLASS: ulong(CKO.PUBLIC_KEY), CKA.PRIVATE: FALSE, CKA.VERIFY: TRUE, CKA.LOCAL: TRUE},
        private: {
            CKA.CLASS: ulong(CKO.PRIVATE_KEY),
            CKA.PRIVATE: TRUE,
            CKA.SENSITIVE: TRUE,
            CKA.ALWAYS_SENSITIVE: TRUE,
            CKA.EXTRACTABLE: FALSE,
            CKA.NEVER_EXTRACTABLE: TRUE,
            CKA.SIGN: TRUE,
            CKA.ALWAYS_AUTHENTICATE: FALSE,
            CKA.LOCAL: TRUE,
        },
    }
    both = {
        CKA.TOKEN: TRUE,
        CKA.KEY_TYPE: ulong(CKK.EC),
        CKA.ID: b"\x01",
        CKA.LABEL: b"key",
        CKA.EC_PARAMS: CURVES["p256"][0],
        CKA.KEY_GEN_MECHANISM: ulong(CKM.EC_KEY_PAIR_GEN),
        CKA.SUBJECT: b"",
        CKA.START_DATE: b"",
    }
    for handle, attributes in expected.items():
        for type_, value in {**both, **attributes}.items():
            assert value == token.get(session, handle, type_), hex(type_)
    assert token.get(session, public, CKA.PUBLIC_KEY_INFO) == token.get(session, private, CKA.PUBLIC_KEY_INFO)
    assert token.get(session, public, CKA.UNIQUE_ID) != token.get(session, private, CKA.UNIQUE_ID)


def test_an_rsa_private_key_tells_its_public_numbers(token, session):
    public, private = rsa_pair(token, session)
    for type_ in (CKA.MODULUS, CKA.PUBLIC_EXPONENT):
        assert token.get(session, public, type_) == token.get(session, private, type_)
    for type_ in (CKA.PRIVATE_EXPONENT, CKA.PRIME_1, CKA.COEFFICIENT):
        refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, private, type_)
    refused(CKR.ATTRIBUTE_TYPE_INVALID, token.get, session, private, CKA.EC_POINT)


@pytest.mark.parametrize("curve", CURVES)
def test_an_ec_private_key_tells_its_public_point(token, session, curve):
    """Programs that look at private keys only, as asyncssh and libp11 do, make the public key of it."""
    public, private = ec_pair(token, session, curve)
    assert token.get(session, private, CKA.EC_POINT) == token.get(session, public, CKA.EC_POINT)
    refused(CKR.ATTRIBUTE_TYPE_INVALID, token.set, session, private, {CKA.EC_POINT: b"x"})


def test_absent_and_sensitive_attributes_do_not_hide_the_others(token, session):
    _, private = ec_pair(token, session)
    wanted = [(CKA.VALUE, bytes(32)), (CKA.MODULUS, bytes(8)), (CKA.LABEL, bytes(8)), (CKA.ID, b"")]
    array, count = token.template(wanted)
    assert token.raw.C_GetAttributeValue(session, private, array, count) == CKR.ATTRIBUTE_SENSITIVE
    assert [entry.ulValueLen for entry in array] == [UNAVAILABLE, UNAVAILABLE, 3, UNAVAILABLE]
    assert bytes(token.ffi.buffer(array[2].pValue, 3)) == b"key"
    array, count = token.template([(CKA.ID, b""), (CKA.LABEL, bytes(2))])
    assert token.raw.C_GetAttributeValue(session, private, array, count) == CKR.BUFFER_TOO_SMALL
    assert array[1].ulValueLen == UNAVAILABLE


def test_private_keys_are_hidden_without_a_login(token, session):
    public, private = ec_pair(token, session)
    token.logout(session)
    assert [public] == token.find(session, {})
    refused(CKR.OBJECT_HANDLE_INVALID, token.get, session, private, CKA.LABEL)
    assert token.raw.C_SignInit(session, token.mechanism(CKM.ECDSA), private) == CKR.KEY_HANDLE_INVALID
    refused(CKR.USER_NOT_LOGGED_IN, ec_pair, token, session)
    token.login(session, USER, PIN)
    assert token.find(session, {})[0] == public
    assert len(token.find(session, {})) == 2


def test_searches(token, session):
    pairs = [ec_pair(token, session, label=b"key %d" % (number % 2), id_=bytes([number])) for number in range(4)]
    public = ulong(CKO.PUBLIC_KEY)
    assert list(pairs[2]) == token.find(session, {CKA.ID: b"\x02"})
    assert [pairs[3][0]] == token.find(session, {CKA.ID: b"\x03", CKA.CLASS: public})
    assert [pairs[1][0], pairs[3][0]] == token.find(session, {CKA.LABEL: b"key 1", CKA.CLASS: public})
    assert 8 == len(token.find(session, {})) == len(token.find(session, {CKA.TOKEN: TRUE}))
    assert [] == token.find(session, {CKA.ID: b"none"}) == token.find(session, {CKA.CLASS: ulong(0xCE534353)})
    assert token.find(session, {0x80000123: b"x"}) == []
    point = token.get(session, pairs[0][0], CKA.EC_POINT)
    assert [pairs[0][0]] == token.find(session, {CKA.EC_POINT: point})


def test_one_search_at_a_time(token, session):
    token.C_FindObjectsInit(session, token.ffi.NULL, 0)
    assert token.raw.C_FindObjectsInit(session, token.ffi.NULL, 0) == CKR.OPERATION_ACTIVE
    token.C_FindObjectsFinal(session)
    assert token.raw.C_FindObjectsFinal(session) == CKR.OPERATION_NOT_INITIALIZED
    out = token.ulong()
    assert token.raw.C_FindObjects(session, out, 1, out) == CKR.OPERATION_NOT_INITIALIZED


def test_handles_are_stable_and_not_used_again(token, session):
    public, _ = ec_pair(token, session)
    assert public in token.find(session, {})
    token.logout(session)
    token.login(session, USER, PIN)
    assert public in token.find(session, {})
    token.C_DestroyObject(session, public)
    refused(CKR.OBJECT_HANDLE_INVALID, token.get, session, public, CKA.LABEL)
    assert token.raw.C_DestroyObject(session, public) == CKR.OBJECT_HANDLE_INVALID
    assert public not in ec_pair(token, session)


def test_certificates_without_a_login(token):
    session = token.open(token.slots()[0])
    cert = certificate()
    handle = token.create(session, certificate_template(cert) | {CKA.LABEL: b"cert", CKA.ID: b"\x07"})
    assert cert.subject.public_bytes() == token.get(session, handle, CKA.SUBJECT)
    assert cert.issuer.public_bytes() == token.get(session, handle, CKA.ISSUER)
    assert token.get(session, handle, CKA.SERIAL_NUMBER) == b"\x02\x03\x00\x81\x23"
    value = cert.public_bytes(serialization.Encoding.DER)
    for template in ({CKA.VALUE: value}, {CKA.SUBJECT: cert.subject.public_bytes(), CKA.CLASS: ulong(CKO.CERTIFICATE)}):
        assert [handle] == token.find(session, template)
    token.set(session, handle, {CKA.LABEL: b"renamed", CKA.ID: b"\x08"})
    assert token.get(session, handle, CKA.LABEL) == b"renamed"
    refused(CKR.ATTRIBUTE_READ_ONLY, token.set, session, handle, {CKA.VALUE: value})
    refused(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, certificate_template(cert) | {CKA.VALUE: b"no DER"})
    token.C_DestroyObject(session, handle)
    assert token.find(session, {}) == []


def test_public_keys_by_their_numbers(token, session):
    key = rsa.generate_private_key(65537, 2048).public_key()
    numbers = key.public_numbers()
    template = {
        CKA.CLASS: ulong(CKO.PUBLIC_KEY),
        CKA.KEY_TYPE: ulong(CKK.RSA),
        CKA.MODULUS: numbers.n.to_bytes(257, "big"),
        CKA.PUBLIC_EXPONENT: b"\x01\x00\x01",
    }
    handle = token.create(session, template)
    assert key == public_key(token, session, handle)
    assert ulong(2048) == token.get(session, handle, CKA.MODULUS_BITS)
    assert token.get(session, handle, CKA.LOCAL) == FALSE
    refused(CKR.TEMPLATE_INCOMPLETE, token.create, session, {k: v for k, v in template.items() if k != CKA.MODULUS})
    point = b"\x04\x41\x04" + bytes(64)
    refused(
        CKR.ATTRIBUTE_VALUE_INVALID,
        token.create,
        session,
        {
            CKA.CLASS: ulong(CKO.PUBLIC_KEY),
            CKA.KEY_TYPE: ulong(CKK.EC),
            CKA.EC_PARAMS: CURVES["p384"][0],
            CKA.EC_POINT: point,
        },
    )


@pytest.mark.parametrize("private", [TRUE, FALSE])
def test_data_objects(token, session, private, tmp_path):
    handle = token.create(session, {**DATA, CKA.TOKEN: TRUE, CKA.PRIVATE: private, CKA.APPLICATION: b"test"})
    assert DATA[CKA.VALUE] == token.get(session, handle, CKA.VALUE)
    assert [handle] == token.find(session, {CKA.VALUE: DATA[CKA.VALUE]})
    assert token.find(session, {CKA.VALUE: DATA[CKA.VALUE], CKA.CLASS: ulong(CKO.CERTIFICATE)}) == []
    on_disk = (tmp_path / "store" / "p11tpm.db").read_bytes()
    assert (DATA[CKA.VALUE] in on_disk) == (private == FALSE)
    token.set(session, handle, {CKA.VALUE: b"another value"})
    assert token.get(session, handle, CKA.VALUE) == b"another value"
    token.logout(session)
    assert bool(token.find(session, {CKA.LABEL: b"note"})) == (private == FALSE)
    if private == TRUE:
        refused(CKR.USER_NOT_LOGGED_IN, token.create, session, {**DATA, CKA.TOKEN: TRUE})


def test_session_objects_last_as_long_as_their_session(token, session):
    other = token.open(token.slots()[0], RO)
    handle = token.create(other, DATA)
    _, key = token.generate_pair(other, CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: CURVES["p256"][0]}, {})
    assert [handle] == token.find(session, {CKA.CLASS: ulong(CKO.DATA)})
    assert len(token.sign(session, key, CKM.ECDSA, bytes(32))) == 64
    assert token.get(session, key, CKA.TOKEN) == FALSE
    token.close(other)
    assert token.find(session, {}) == []
    refused(CKR.OBJECT_HANDLE_INVALID, token.get, session, handle, CKA.LABEL)


def test_token_objects_change_in_read_write_sessions_only(token, session):
    public, _ = ec_pair(token, session)
    read_only = token.open(token.slots()[0], RO)
    refused(CKR.SESSION_READ_ONLY, ec_pair, token, read_only)
    refused(CKR.SESSION_READ_ONLY, token.set, read_only, public, {CKA.LABEL: b"x"})
    assert token.raw.C_DestroyObject(read_only, public) == CKR.SESSION_READ_ONLY
    refused(CKR.SESSION_READ_ONLY, token.create, read_only, {**DATA, CKA.TOKEN: TRUE})


def test_what_an_owner_may_change(token, session):
    public, private = ec_pair(token, session)
    for handle in (public, private):
        token.set(session, handle, {CKA.LABEL: b"new label", CKA.ID: b"new id", CKA.SUBJECT: b"0"})
        assert token.get(session, handle, CKA.LABEL) == b"new label"
    for changes, rv in (
        ({CKA.SENSITIVE: FALSE}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.EXTRACTABLE: TRUE}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.PRIVATE: FALSE}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.EC_PARAMS: b"x"}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.MODULUS: b"x"}, CKR.ATTRIBUTE_TYPE_INVALID),
        ({CKA.SIGN: b"xx"}, CKR.ATTRIBUTE_VALUE_INVALID),
    ):
        refused(rv, token.set, session, private, changes)
    assert len(token.sign(session, private, CKM.ECDSA, bytes(32))) == 64


def test_objects_that_say_no(token, session):
    kept = token.create(session, {**DATA, CKA.DESTROYABLE: FALSE})
    fixed = token.create(session, {**DATA, CKA.MODIFIABLE: FALSE})
    assert token.raw.C_DestroyObject(session, kept) == CKR.ACTION_PROHIBITED
    refused(CKR.ACTION_PROHIBITED, token.set, session, fixed, {CKA.LABEL: b"x"})


def test_an_identifier_is_made_when_none_is_given(token, session):
    public, private = token.generate_pair(
        session, CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: CURVES["p256"][0]}, {CKA.DERIVE: TRUE, CKA.SIGN: TRUE}
    )
    assert token.get(session, public, CKA.ID) == token.get(session, private, CKA.ID)
    assert len(token.get(session, public, CKA.ID)) == 20


@pytest.mark.parametrize(
    ("mechanism", "public", "private", "rv"),
    [
        (CKM.EC_KEY_PAIR_GEN, {}, {}, CKR.TEMPLATE_INCOMPLETE),
        (CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: b"\x06\x05\x2b\x81\x04\x00\x0a"}, {}, CKR.CURVE_NOT_SUPPORTED),
        (CKM.RSA_PKCS_KEY_PAIR_GEN, {CKA.MODULUS_BITS: ulong(1000)}, {}, CKR.KEY_SIZE_RANGE),
        (
            CKM.RSA_PKCS_KEY_PAIR_GEN,
            {CKA.MODULUS_BITS: ulong(2048), CKA.PUBLIC_EXPONENT: b"\x03"},
            {},
            CKR.TEMPLATE_INCONSISTENT,
        ),
        (CKM.RSA_PKCS_KEY_PAIR_GEN, {CKA.EC_PARAMS: CURVES["p256"][0]}, {}, CKR.ATTRIBUTE_TYPE_INVALID),
        (CKM.ECDSA, {}, {}, CKR.MECHANISM_INVALID),
    ],
)
def test_pairs_that_can_not_be_made(token, session, mechanism, public, private, rv):
    refused(rv, token.generate_pair, session, mechanism, public, private)
    assert token.find(session, {}) == []


def test_a_changed_store_is_noticed(token, session, tmp_path):
    import sqlite3

    public, private = ec_pair(token, session, private={CKA.SIGN: FALSE})
    with sqlite3.connect(tmp_path / "store" / "p11tpm.db") as db:
        db.execute("UPDATE attribute SET value=? WHERE type=?", (TRUE, CKA.SIGN))
    db.close()
    assert token.raw.C_SignInit(session, token.mechanism(CKM.ECDSA), private) == CKR.DEVICE_ERROR
    assert token.get(session, public, CKA.LABEL) == b"key"


def test_an_error_leaves_the_search_as_it_was(token, session):
    made = {token.create(session, {CKA.CLASS: ulong(CKO.DATA), CKA.LABEL: bytes((number,))}) for number in range(3)}
    token.C_FindObjectsInit(session, token.ffi.NULL, 0)
    out, count, found = token.ffi.new("CK_ULONG[2]"), token.ulong(), set()
    for _ in range(2):
        assert token.raw.C_FindObjects(session, token.ffi.NULL, 2, count) == CKR.ARGUMENTS_BAD
        assert token.raw.C_FindObjects(session, out, 2, token.ffi.NULL) == CKR.ARGUMENTS_BAD
        token.C_FindObjects(session, out, 2, count)
        found |= set(out[0 : count[0]])
    assert found == made
    token.C_FindObjectsFinal(session)


def test_session_objects_go_where_the_store_is_read_only(token, session, monkeypatch):
    made = token.create(session, {CKA.CLASS: ulong(CKO.DATA), CKA.VALUE: b"x"})
    monkeypatch.setattr("p11tpm.host.files.may_write", lambda _: False)
    token.C_DestroyObject(session, made)
    refused(CKR.OBJECT_HANDLE_INVALID, token.get, session, made, CKA.VALUE)
