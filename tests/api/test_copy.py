"""C_CopyObject for objects of every class, and C_GetObjectSize."""

import os
import sqlite3

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptoki import RO, USER, Rv
from keys import CURVES, ec_pair, public_key, rsa_pair, verify_ecdsa, verify_pkcs1
from test_import import ec_template
from test_objects import certificate, certificate_template

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR
from p11tpm.store import Store

PIN = b"123456"
DATA = {CKA.CLASS: ulong(CKO.DATA), CKA.LABEL: b"note", CKA.VALUE: b"the value of a data object"}
SECRET = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.AES), CKA.VALUE: bytes(range(32))}
READABLE = {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE}


def refused(rv, call, *args):
    with pytest.raises(Rv) as error:
        call(*args)
    assert error.value == rv


def copy(run, session, handle, changes=()):
    made = run.ulong()
    run.C_CopyObject(session, handle, *run.template(dict(changes)), made)
    return made[0]


def attributes(run, session, handle):
    """Every attribute that can be read."""
    found = {}
    for type_ in {value for name, value in vars(CKA).items() if name.isupper()}:
        try:
            found[type_] = run.get(session, handle, type_)
        except Rv:
            continue
    return found


def records():
    store = Store(os.environ["P11TPM_STORE"])
    return [store.record(id_) for id_ in store.find(store.tokens()[0].id, {}, {})]


def originals(run, session):
    """One object of each kind."""
    cert = certificate_template(certificate())
    public, private = ec_pair(run, session)
    _, rsa = rsa_pair(run, session)
    return {
        "data": run.create(session, {**DATA, CKA.PRIVATE: FALSE}),
        "private data": run.create(session, {**DATA, CKA.TOKEN: TRUE}),
        "certificate": run.create(session, cert),
        "public key": public,
        "private key": private,
        "RSA key": rsa,
        "secret key": run.create(session, {**SECRET, **READABLE}),
        "secret key of the token": run.create(session, {**SECRET, **READABLE, CKA.TOKEN: TRUE}),
    }


def test_a_copy_is_the_same_under_another_name(token, session):
    for kind, handle in originals(token, session).items():
        before = attributes(token, session, handle)
        for where in (TRUE, FALSE):
            changes = {CKA.LABEL: b"copy", CKA.TOKEN: where}
            made = copy(token, session, handle, changes)
            unique = token.get(session, made, CKA.UNIQUE_ID)
            assert unique != before[CKA.UNIQUE_ID]
            assert attributes(token, session, made) == {**before, **changes, CKA.UNIQUE_ID: unique}, kind
        assert attributes(token, session, handle) == before
        assert attributes(token, session, copy(token, session, handle)).keys() == before.keys()


def test_a_session_pair_becomes_a_token_pair(token, session, swtpm):
    """As Java does: a key pair of the session, whose copy gets CKA_TOKEN and a name."""
    made = []
    for mechanism, wanted in (
        (CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: CURVES["p256"][0]}),
        (CKM.RSA_PKCS_KEY_PAIR_GEN, {CKA.MODULUS_BITS: ulong(2048)}),
    ):
        public, private = token.generate_pair(session, mechanism, wanted, {})
        made.append(public_key(token, session, public))
        token.sign(session, private, mechanism_of(made[-1]), b"text")
        copy(
            token,
            session,
            private,
            {CKA.TOKEN: TRUE, CKA.ID: b"alias", CKA.LABEL: mechanism_of(made[-1]).to_bytes(8, "big")},
        )
    token.logout(session)
    token.finalize()
    swtpm.restart()
    token.initialize()
    again = token.open(token.slots()[0])
    token.login(again, USER, PIN)
    assert len(token.find(again, {CKA.ID: b"alias"})) == 2
    for key in made:
        mechanism = mechanism_of(key)
        (handle,) = token.find(again, {CKA.LABEL: mechanism.to_bytes(8, "big")})
        verify(key, token.sign(again, handle, mechanism, b"text"))
        assert token.get(again, handle, CKA.LOCAL) == TRUE
        assert token.get(again, handle, CKA.ALWAYS_SENSITIVE) == TRUE
        assert token.get(again, handle, CKA.NEVER_EXTRACTABLE) == TRUE


def mechanism_of(key):
    return CKM.ECDSA_SHA256 if isinstance(key, ec.EllipticCurvePublicKey) else CKM.SHA256_RSA_PKCS


def verify(key, signature):
    (verify_ecdsa if isinstance(key, ec.EllipticCurvePublicKey) else verify_pkcs1)(key, signature, b"text", "sha256")


def test_a_copy_of_a_key_is_an_object_of_its_own(token, session, proxy):
    public, private = ec_pair(token, session)
    key = public_key(token, session, public)
    proxy.clear()
    made = copy(token, session, private)
    assert proxy.names[-3:] == ["Load", "ObjectChangeAuth", "FlushContext"]
    one, other = (record for record in records() if record.tpm_private)
    assert one.tpm_public == other.tpm_public
    assert one.tpm_private != other.tpm_private
    for handle in (private, made, private):
        verify(key, token.sign(session, handle, CKM.ECDSA_SHA256, b"text"))
    token.C_DestroyObject(session, private)
    verify(key, token.sign(session, made, CKM.ECDSA_SHA256, b"text"))
    again = copy(token, session, made)
    token.C_DestroyObject(session, made)
    verify(key, token.sign(session, again, CKM.ECDSA_SHA256, b"text"))


def test_the_authorisation_value_is_the_copys(token, session, tmp_path):
    """A key's blob is not usable in the place of its copy's."""
    _, private = ec_pair(token, session)
    made = copy(token, session, private)
    one, other = (record for record in records() if record.tpm_private)
    with sqlite3.connect(tmp_path / "store" / "p11tpm.db") as db:
        db.execute("UPDATE object SET tpm_private=? WHERE id=?", (one.tpm_private, other.id))
    db.close()
    assert token.raw.C_SignInit(session, token.mechanism(CKM.ECDSA), made) == CKR.DEVICE_ERROR


def test_imported_keys(token, session):
    key = ec.generate_private_key(ec.SECP256R1())
    imported = token.create(session, ec_template(key))
    made = copy(token, session, imported, {CKA.TOKEN: TRUE})
    assert token.get(session, made, CKA.LOCAL) == FALSE
    token.C_DestroyObject(session, imported)
    verify(key.public_key(), token.sign(session, made, CKM.ECDSA_SHA256, b"text"))


def test_a_key_that_wants_the_pin_each_time(token, session):
    key = ec.generate_private_key(ec.SECP256R1())
    imported = token.create(session, {**ec_template(key), CKA.ALWAYS_AUTHENTICATE: TRUE})
    made = copy(token, session, imported, {CKA.TOKEN: TRUE})
    assert token.get(session, made, CKA.ALWAYS_AUTHENTICATE) == TRUE
    refused(CKR.ATTRIBUTE_READ_ONLY, copy, token, session, made, {CKA.ALWAYS_AUTHENTICATE: FALSE})
    refused(CKR.USER_NOT_LOGGED_IN, token.sign, session, made, CKM.ECDSA, bytes(32))


def test_trusted_bus(settings, tmp_path, request):
    assert settings
    (tmp_path / "p11tpm.conf").write_text("log = off\nbus = trusted\n")
    token, session = request.getfixturevalue("token"), request.getfixturevalue("session")
    public, private = ec_pair(token, session)
    made = copy(token, session, private)
    verify(public_key(token, session, public), token.sign(session, made, CKM.ECDSA_SHA256, b"text"))


def test_without_a_login(token):
    session = token.open(token.slots()[0], RO)
    key = ec.generate_private_key(ec.SECP256R1())
    made = token.create(session, {**ec_template(key), CKA.PRIVATE: FALSE})
    verify(key.public_key(), token.sign(session, copy(token, session, made), CKM.ECDSA_SHA256, b"text"))
    refused(CKR.USER_NOT_LOGGED_IN, copy, token, session, made, {CKA.PRIVATE: TRUE})
    refused(CKR.SESSION_READ_ONLY, copy, token, session, made, {CKA.TOKEN: TRUE})
    writing = token.open(token.slots()[0])
    refused(CKR.USER_NOT_LOGGED_IN, copy, token, writing, made, {CKA.TOKEN: TRUE})
    note = token.create(session, {**DATA, CKA.PRIVATE: FALSE})
    assert token.get(session, copy(token, writing, note, {CKA.TOKEN: TRUE}), CKA.VALUE) == DATA[CKA.VALUE]
    token.login(session, USER, PIN)
    kept = copy(token, writing, made, {CKA.TOKEN: TRUE, CKA.PRIVATE: TRUE})
    verify(key.public_key(), token.sign(session, kept, CKM.ECDSA_SHA256, b"text"))
    token.logout(session)
    refused(CKR.OBJECT_HANDLE_INVALID, copy, token, writing, kept)


def test_session_objects_only_in_a_read_only_session(token, session):
    _, private = ec_pair(token, session)
    read_only = token.open(token.slots()[0], RO)
    refused(CKR.SESSION_READ_ONLY, copy, token, read_only, private)
    made = copy(token, read_only, private, {CKA.TOKEN: FALSE})
    assert token.get(session, made, CKA.TOKEN) == FALSE
    token.close(read_only)
    refused(CKR.OBJECT_HANDLE_INVALID, token.get, session, made, CKA.TOKEN)


def test_a_public_note_gets_a_private_copy(token, session, tmp_path):
    note = token.create(session, {**DATA, CKA.PRIVATE: FALSE})
    private = copy(token, session, note, {CKA.PRIVATE: TRUE, CKA.TOKEN: TRUE})
    assert token.get(session, private, CKA.VALUE) == DATA[CKA.VALUE]
    another = copy(token, session, private, {CKA.VALUE: b"another value"})
    assert token.get(session, another, CKA.VALUE) == b"another value"
    on_disk = (tmp_path / "store" / "p11tpm.db").read_bytes()
    assert DATA[CKA.VALUE] not in on_disk
    assert b"another value" not in on_disk
    refused(CKR.TEMPLATE_INCONSISTENT, copy, token, session, private, {CKA.PRIVATE: FALSE})


def test_secret_keys_are_encrypted_anew(token, session, tmp_path):
    made = token.create(session, {**SECRET, **READABLE})
    copies = [copy(token, session, made, {CKA.TOKEN: TRUE, CKA.LABEL: bytes([65 + number])}) for number in range(2)]
    copies.append(copy(token, session, copies[0]))
    one, other, third = (record.secret for record in records())
    assert len({one, other, third}) == 3
    assert SECRET[CKA.VALUE] not in (tmp_path / "store" / "p11tpm.db").read_bytes()
    token.finalize()
    token.initialize()
    again = token.open(token.slots()[0])
    token.login(again, USER, PIN)
    for handle in token.find(again, {CKA.CLASS: ulong(CKO.SECRET_KEY)}):
        assert token.get(again, handle, CKA.VALUE) == SECRET[CKA.VALUE]


def test_what_a_copy_may_have_otherwise(token, session):
    made = token.create(session, {**SECRET, **READABLE})
    secret = copy(token, session, made, {CKA.SENSITIVE: TRUE, CKA.EXTRACTABLE: FALSE})
    refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, secret, CKA.VALUE)
    for type_ in (CKA.ALWAYS_SENSITIVE, CKA.NEVER_EXTRACTABLE, CKA.LOCAL):
        assert token.get(session, secret, type_) == FALSE
    for changes, rv in (
        ({CKA.SENSITIVE: FALSE}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.EXTRACTABLE: TRUE}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.VALUE: SECRET[CKA.VALUE]}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET)}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.LOCAL: TRUE}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.UNIQUE_ID: b"x"}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.MODULUS: b"x"}, CKR.ATTRIBUTE_TYPE_INVALID),
        ({CKA.TOKEN: b"xx"}, CKR.ATTRIBUTE_VALUE_INVALID),
        ({CKA.TRUSTED: TRUE}, CKR.ATTRIBUTE_READ_ONLY),
    ):
        refused(rv, copy, token, session, secret, changes)
    flags = {CKA.MODIFIABLE: FALSE, CKA.DESTROYABLE: FALSE, CKA.SIGN: FALSE, CKA.ID: b"7"}
    fixed = copy(token, session, secret, {**flags, CKA.KEY_TYPE: SECRET[CKA.KEY_TYPE], CKA.CLASS: SECRET[CKA.CLASS]})
    for type_, value in flags.items():
        assert token.get(session, fixed, type_) == value
    refused(CKR.ACTION_PROHIBITED, token.set, session, fixed, {CKA.LABEL: b"x"})
    assert token.raw.C_DestroyObject(session, fixed) == CKR.ACTION_PROHIBITED


def test_objects_that_are_not_copied(token, session):
    note = token.create(session, {**DATA, CKA.COPYABLE: FALSE})
    refused(CKR.ACTION_PROHIBITED, copy, token, session, note)
    once = copy(token, session, token.create(session, DATA), {CKA.COPYABLE: FALSE})
    refused(CKR.ACTION_PROHIBITED, copy, token, session, once)
    refused(CKR.ACTION_PROHIBITED, copy, token, session, once, {CKA.COPYABLE: TRUE})
    refused(CKR.OBJECT_HANDLE_INVALID, copy, token, session, 4711)
    template, count = token.template({})
    assert token.raw.C_CopyObject(session, note, template, count, token.ffi.NULL) == CKR.ARGUMENTS_BAD
    assert token.raw.C_CopyObject(4711, note, template, count, token.ulong()) == CKR.SESSION_HANDLE_INVALID


def size(run, session, handle):
    length = run.ulong()
    run.C_GetObjectSize(session, handle, length)
    return length[0]


def test_sizes(token, session):
    for kind, handle in originals(token, session).items():
        read = sum(map(len, attributes(token, session, handle).values()))
        hidden = size(token, session, handle) - read
        assert hidden > 100 if kind in {"private key", "RSA key"} else abs(hidden) < 64, kind
        before = size(token, session, handle)
        token.set(session, handle, {CKA.LABEL: b"x" * 1000})
        assert size(token, session, handle) > before + 900
    private = token.find(session, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)})[0]
    token.logout(session)
    refused(CKR.OBJECT_HANDLE_INVALID, size, token, session, private)
    refused(CKR.OBJECT_HANDLE_INVALID, size, token, session, 4711)
    assert token.raw.C_GetObjectSize(session, private, token.ffi.NULL) == CKR.ARGUMENTS_BAD


def test_copies_of_certificates_are_found(token, session):
    cert = certificate()
    made = copy(token, session, token.create(session, certificate_template(cert)), {CKA.TOKEN: FALSE, CKA.ID: b"9"})
    assert token.find(session, {CKA.ID: b"9"}) == [made]
    assert token.get(session, made, CKA.VALUE) == cert.public_bytes(serialization.Encoding.DER)
