"""Templates: bytes as they are, one value for a type, and attributes that are templates themselves."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptoki import RO, Rv
from keys import CURVES, as_object, secret_key

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR

KEK = bytes(range(32))
AES = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.AES)}
OPEN = {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE}
UNPRINTABLE = [b"\xff\xfe\xfd", b"\0", b"a\0b", b"\xc3\x28", bytes(range(256))]


def refused(rv, call, *args):
    with pytest.raises(Rv) as error:
        call(*args)
    assert error.value == rv


class Nested:
    """An attribute whose value is an array of CK_ATTRIBUTE, in memory for as long as this is."""

    def __init__(self, run, type_, template) -> None:
        self._run = run
        self.array, self.number = run.template(template)
        self._values = run._values  # noqa: SLF001 - the memory that the array points to
        self.pair = (type_, bytes(run.ffi.buffer(self.array))[: self.number * run.ffi.sizeof("CK_ATTRIBUTE")])


def read_nested(run, session, handle, type_):
    """Read an attribute that is a template, as a host does: count, types and lengths, values."""
    size = run.ffi.sizeof("CK_ATTRIBUTE")
    entry, _ = run.template({type_: b""})
    entry[0].pValue = run.ffi.NULL
    run.C_GetAttributeValue(session, handle, entry, 1)
    number = entry[0].ulValueLen // size
    inner = run.ffi.new("CK_ATTRIBUTE[]", max(1, number))
    entry[0].pValue = inner
    run.C_GetAttributeValue(session, handle, entry, 1)
    assert entry[0].ulValueLen == number * size
    values = [run.ffi.new("CK_BYTE[]", max(1, one.ulValueLen)) for one in inner]
    for one, value in zip(inner, values, strict=False):
        one.pValue = value
    run.C_GetAttributeValue(session, handle, entry, 1)
    found = list(inner)[:number]
    return {one.type: bytes(run.ffi.buffer(value, one.ulValueLen)) for one, value in zip(found, values, strict=False)}


# -- bytes


@pytest.mark.parametrize("value", UNPRINTABLE)
@pytest.mark.parametrize("token_object", [TRUE, FALSE])
def test_byte_strings_are_stored_and_found_as_they_are(token, session, value, token_object):
    data = {CKA.CLASS: ulong(CKO.DATA), CKA.TOKEN: token_object}
    made = token.create(session, {**data, CKA.LABEL: value, CKA.APPLICATION: value, CKA.OBJECT_ID: value})
    for type_ in (CKA.LABEL, CKA.APPLICATION, CKA.OBJECT_ID):
        assert token.get(session, made, type_) == value
        assert token.find(session, {type_: value}) == [made]
        assert token.find(session, {type_: value + b"x"}) == []
    key = secret_key(token, session, KEK, CKK.AES, LABEL=value, ID=value, TOKEN=token_object)
    assert token.find(session, {CKA.ID: value}) == [key]
    token.set(session, made, {CKA.LABEL: b"\x80" + value})
    assert token.find(session, {CKA.LABEL: b"\x80" + value}) == [made]


def test_the_same_value_twice_is_one_value(token, session):
    pairs = [(CKA.CLASS, ulong(CKO.DATA)), (CKA.LABEL, b"x"), (CKA.LABEL, b"x"), (CKA.CLASS, ulong(CKO.DATA))]
    made = token.create(session, pairs)
    assert token.find(session, [(CKA.LABEL, b"x"), (CKA.LABEL, b"x")]) == [made]
    token.set(session, made, [(CKA.LABEL, b"y"), (CKA.LABEL, b"y")])
    refused(CKR.TEMPLATE_INCONSISTENT, token.create, session, [*pairs, (CKA.LABEL, b"y")])
    refused(CKR.TEMPLATE_INCONSISTENT, token.set, session, made, [(CKA.LABEL, b"y"), (CKA.LABEL, b"")])


@pytest.mark.parametrize("curve", CURVES)
def test_points_are_taken_raw_and_in_an_octet_string(token, session, curve):
    for _ in range(20):
        key = ec.generate_private_key(CURVES[curve][1]).public_key()
        raw = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        template = as_object(key)
        made = token.create(session, {**template, CKA.EC_POINT: raw})
        assert token.get(session, made, CKA.EC_POINT) == template[CKA.EC_POINT]
        made = token.create(session, template)
        assert token.get(session, made, CKA.EC_POINT) == template[CKA.EC_POINT]


def test_a_raw_point_that_looks_like_an_octet_string(token, session):
    """Its second byte is the length of what follows: it happens to one key in 256."""
    template = as_object(ec.generate_private_key(CURVES["p256"][1]).public_key())
    point = b"\x04\x3f" + bytes(63)
    made = token.create(session, {**template, CKA.EC_POINT: point})
    assert token.get(session, made, CKA.EC_POINT) == b"\x04\x41" + point


# -- templates in attributes


def test_a_template_is_stored_and_found_and_read(token, session):
    wanted = {CKA.EXTRACTABLE: TRUE, CKA.LABEL: b"only \xff", CKA.ID: b""}
    nested = Nested(token, CKA.WRAP_TEMPLATE, wanted)
    for token_object in (TRUE, FALSE):
        kept = [*AES.items(), (CKA.VALUE, KEK), (CKA.TOKEN, token_object), nested.pair]
        made = token.create(session, kept)
        assert read_nested(token, session, made, CKA.WRAP_TEMPLATE) == wanted
        other_order = Nested(token, CKA.WRAP_TEMPLATE, dict(reversed(wanted.items())))
        assert made in token.find(session, [other_order.pair])
        other = Nested(token, CKA.WRAP_TEMPLATE, {CKA.LABEL: b"only"})
        assert token.find(session, [other.pair]) == []
        refused(CKR.ATTRIBUTE_READ_ONLY, token.set, session, made, [other.pair])
        assert read_nested(token, session, made, CKA.UNWRAP_TEMPLATE) == {}, "it was not asked for"


def test_what_does_not_fit_is_said_of_each_attribute(token, session):
    nested = Nested(token, CKA.WRAP_TEMPLATE, {CKA.LABEL: b"0123456789", CKA.SIGN: TRUE})
    made = token.create(session, [*AES.items(), (CKA.VALUE, KEK), nested.pair])
    entry, _ = token.template({CKA.WRAP_TEMPLATE: b""})
    inner = token.ffi.new("CK_ATTRIBUTE[]", 2)
    short = token.ffi.new("CK_BYTE[]", 4)
    entry[0].pValue, entry[0].ulValueLen = inner, 24
    assert token.raw.C_GetAttributeValue(session, made, entry, 1) == CKR.BUFFER_TOO_SMALL
    assert entry[0].ulValueLen == (1 << 64) - 1
    entry[0].ulValueLen = 48
    inner[0].pValue, inner[0].ulValueLen = short, 4
    inner[1].pValue, inner[1].ulValueLen = short, 4
    assert token.raw.C_GetAttributeValue(session, made, entry, 1) == CKR.BUFFER_TOO_SMALL
    assert [one.type for one in inner] == [CKA.LABEL, CKA.SIGN]
    assert inner[0].ulValueLen == (1 << 64) - 1
    assert (inner[1].ulValueLen, bytes(token.ffi.buffer(short))) == (1, TRUE + bytes(3))


def test_arrays_that_are_none(token, session):
    inner = Nested(token, CKA.UNWRAP_TEMPLATE, {CKA.SIGN: TRUE})
    outer = Nested(token, CKA.WRAP_TEMPLATE, [inner.pair])
    size = token.ffi.sizeof("CK_ATTRIBUTE")
    twice = Nested(token, CKA.WRAP_TEMPLATE, [(CKA.SIGN, TRUE), (CKA.SIGN, FALSE)])
    for value in (outer.pair, (CKA.WRAP_TEMPLATE, b"x" * (size - 1)), twice.pair):
        refused(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, [*AES.items(), (CKA.VALUE, KEK), value])
    array, count = token.template([*AES.items(), (CKA.VALUE, KEK), (CKA.WRAP_TEMPLATE, b"")])
    array[3].ulValueLen, array[3].pValue = size, token.ffi.NULL
    assert token.raw.C_CreateObject(session, array, count, token.ulong()) == CKR.ATTRIBUTE_VALUE_INVALID
    array[3].ulValueLen, array[3].pValue = size * (1 << 40), array
    assert token.raw.C_CreateObject(session, array, count, token.ulong()) == CKR.ATTRIBUTE_VALUE_INVALID
    array[3].ulValueLen, array[3].pValue = size * count, array  # an array that holds itself
    assert token.raw.C_CreateObject(session, array, count, token.ulong()) == CKR.ATTRIBUTE_VALUE_INVALID


def test_what_a_key_wraps(token, session):
    """CKA_WRAP_TEMPLATE: keys that do not match are not wrapped (clauses 4.8 and 4.10)."""
    nested = Nested(token, CKA.WRAP_TEMPLATE, {CKA.LABEL: b"backup", CKA.KEY_TYPE: ulong(CKK.AES)})
    by = token.create(session, [*AES.items(), (CKA.VALUE, KEK), nested.pair])
    right = secret_key(token, session, KEK, CKK.AES, LABEL=b"backup", EXTRACTABLE=TRUE)
    for key_type, label in ((CKK.AES, b"other"), (CKK.GENERIC_SECRET, b"backup")):
        wrong = secret_key(token, session, KEK, key_type, LABEL=label, EXTRACTABLE=TRUE)
        refused(CKR.KEY_HANDLE_INVALID, token.wrap, session, by, wrong, CKM.AES_KEY_WRAP)
    assert token.wrap(session, by, right, CKM.AES_KEY_WRAP)
    empty = Nested(token, CKA.WRAP_TEMPLATE, {})
    anything = token.create(session, [*AES.items(), (CKA.VALUE, KEK), empty.pair])
    assert token.wrap(session, anything, wrong, CKM.AES_KEY_WRAP)


def test_what_a_key_unwraps(token, session):
    """CKA_UNWRAP_TEMPLATE is added to what the host asks, and must not contradict it (clauses 4.9 and 4.10)."""
    nested = Nested(token, CKA.UNWRAP_TEMPLATE, {CKA.EXTRACTABLE: FALSE, CKA.SENSITIVE: TRUE, CKA.LABEL: b"ours"})
    by = token.create(session, [*AES.items(), (CKA.VALUE, KEK), nested.pair])
    wrapped = token.wrap(session, by, secret_key(token, session, KEK, CKK.AES, EXTRACTABLE=TRUE), CKM.AES_KEY_WRAP)
    for template in (AES, {**AES, CKA.LABEL: b"ours"}):
        made = token.unwrap(session, by, CKM.AES_KEY_WRAP, wrapped, template)
        assert token.get(session, made, CKA.LABEL) == b"ours"
        refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, made, CKA.VALUE)
    for wrong in ({CKA.LABEL: b"theirs"}, {CKA.EXTRACTABLE: TRUE}):
        template = {**AES, **wrong}
        refused(CKR.TEMPLATE_INCONSISTENT, token.unwrap, session, by, CKM.AES_KEY_WRAP, wrapped, template)


def test_what_is_derived_of_a_key(token, session):
    nested = Nested(token, CKA.DERIVE_TEMPLATE, {CKA.EXTRACTABLE: FALSE, CKA.LABEL: b"ours"})
    generic = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET), CKA.DERIVE: TRUE}
    base = token.create(session, [*generic.items(), (CKA.VALUE, KEK), nested.pair])
    made = token.derive(session, base, CKM.SHA256_KEY_DERIVATION, {})
    assert token.get(session, made, CKA.LABEL) == b"ours"
    wrong = {CKA.LABEL: b"theirs"}
    refused(CKR.TEMPLATE_INCONSISTENT, token.derive, session, base, CKM.SHA256_KEY_DERIVATION, wrong)
    free = secret_key(token, session, KEK, DERIVE=TRUE)
    joined = CKM.CONCATENATE_BASE_AND_KEY, {CKA.LABEL: b"x"}, ulong(base)
    refused(CKR.TEMPLATE_INCONSISTENT, token.derive, session, free, *joined)
    token.derive(session, free, joined[0], {CKA.LABEL: b"ours", CKA.EXTRACTABLE: FALSE}, ulong(base))


def test_a_template_of_a_key_does_not_write_in_a_read_only_session(token, session):
    slot = token.slots()[0]
    reading = token.open(slot, RO)
    to_token = {CKA.TOKEN: TRUE}
    generic = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET), CKA.DERIVE: TRUE}
    unwraps, derives = (Nested(token, type_, to_token) for type_ in (CKA.UNWRAP_TEMPLATE, CKA.DERIVE_TEMPLATE))
    by = token.create(session, [*AES.items(), (CKA.VALUE, KEK), unwraps.pair])
    base = token.create(session, [*generic.items(), (CKA.VALUE, KEK), derives.pair])
    wrapped = token.wrap(session, by, secret_key(token, session, KEK, CKK.AES, EXTRACTABLE=TRUE), CKM.AES_KEY_WRAP)
    refused(CKR.SESSION_READ_ONLY, token.unwrap, reading, by, CKM.AES_KEY_WRAP, wrapped, AES)
    refused(CKR.SESSION_READ_ONLY, token.derive, reading, base, CKM.SHA256_KEY_DERIVATION, {})
    assert token.find(session, to_token) == []
    token.unwrap(session, by, CKM.AES_KEY_WRAP, wrapped, AES)
    token.derive(session, base, CKM.SHA256_KEY_DERIVATION, {})
    assert len(token.find(session, to_token)) == 2
