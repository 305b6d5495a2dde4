"""The attribute table and the rules that are read from it."""

import pytest

from p11tpm import attribute
from p11tpm.attribute import CREATE, FALSE, GENERATE, TRUE, ulong
from p11tpm.ck import CKA, CKC, CKK, CKO, CKR
from p11tpm.error import Error

EC_PARAMS = bytes.fromhex("06082a8648ce3d030107")


def refused(rv, call, *args):
    with pytest.raises(Error) as error:
        call(*args)
    assert rv == error.value.rv


def test_each_attribute_is_declared_once_for_a_class_and_key_type():
    seen = [(of, row.key, row.type) for row in attribute.ATTRIBUTES for of in row.of]
    assert len(seen) == len(set(seen))
    generic = {(of, type_) for of, key, type_ in seen if key is None}
    assert not [entry for entry in seen if entry[1] is not None and (entry[0], entry[2]) in generic]


def test_defaults_and_only_values_have_the_declared_form():
    for row in attribute.ATTRIBUTES:
        for value in (row.default, row.only):
            assert value is None or row.valid(value), row.type


def test_sensitive_attributes_have_no_default():
    assert not [row for row in attribute.ATTRIBUTES if row.sensitive and row.default is not None]


def test_a_template_is_completed():
    done = attribute.complete({CKA.EC_PARAMS: EC_PARAMS}, CKO.PUBLIC_KEY, CKK.EC, GENERATE)
    assert FALSE == done[CKA.TOKEN] == done[CKA.PRIVATE]
    assert ulong(CKK.EC) == done[CKA.KEY_TYPE]
    assert done[CKA.VERIFY] == TRUE
    assert done[CKA.LABEL] == b""
    assert CKA.EC_POINT not in done


@pytest.mark.parametrize(
    ("template", "rv"),
    [
        ({}, CKR.TEMPLATE_INCOMPLETE),
        ({CKA.EC_PARAMS: EC_PARAMS, CKA.MODULUS: b"1"}, CKR.ATTRIBUTE_TYPE_INVALID),
        ({CKA.EC_PARAMS: EC_PARAMS, 0x7FFFFFFF: b"1"}, CKR.ATTRIBUTE_TYPE_INVALID),
        ({CKA.EC_PARAMS: EC_PARAMS, CKA.LOCAL: TRUE}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.EC_PARAMS: EC_PARAMS, CKA.EC_POINT: b"1"}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.EC_PARAMS: EC_PARAMS, CKA.TOKEN: b"\x02"}, CKR.ATTRIBUTE_VALUE_INVALID),
        ({CKA.EC_PARAMS: EC_PARAMS, CKA.TOKEN: b""}, CKR.ATTRIBUTE_VALUE_INVALID),
        ({CKA.EC_PARAMS: EC_PARAMS, CKA.KEY_TYPE: b"\x03"}, CKR.ATTRIBUTE_VALUE_INVALID),
        ({CKA.EC_PARAMS: EC_PARAMS, CKA.START_DATE: b"2026"}, CKR.ATTRIBUTE_VALUE_INVALID),
        ({CKA.EC_PARAMS: EC_PARAMS, CKA.KEY_TYPE: ulong(CKK.RSA)}, CKR.TEMPLATE_INCONSISTENT),
        ({CKA.EC_PARAMS: EC_PARAMS, CKA.CLASS: ulong(CKO.PRIVATE_KEY)}, CKR.TEMPLATE_INCONSISTENT),
    ],
)
def test_wrong_templates_get_the_code_of_the_standard(template, rv):
    refused(rv, attribute.complete, template, CKO.PUBLIC_KEY, CKK.EC, GENERATE)


def test_a_template_in_an_attribute_is_read_as_it_was_written():
    template = {CKA.SIGN: TRUE, CKA.LABEL: b"\xff", CKA.ID: b"", CKA.WRAP: FALSE}
    assert attribute.unpack(attribute.pack(template)) == template
    assert attribute.pack(template) == attribute.pack(dict(reversed(template.items())))
    assert attribute.unpack(b"") == {}


def test_what_a_template_of_a_key_adds():
    of_key = {CKA.UNWRAP_TEMPLATE: attribute.pack({CKA.SIGN: TRUE, CKA.LABEL: b"x"})}
    added = attribute.with_template({CKA.SIGN: TRUE, CKA.ID: b"1"}, of_key, CKA.UNWRAP_TEMPLATE)
    assert added == {CKA.SIGN: TRUE, CKA.LABEL: b"x", CKA.ID: b"1"}
    assert attribute.with_template({CKA.SIGN: FALSE}, of_key, CKA.DERIVE_TEMPLATE) == {CKA.SIGN: FALSE}
    refused(CKR.TEMPLATE_INCONSISTENT, attribute.with_template, {CKA.SIGN: FALSE}, of_key, CKA.UNWRAP_TEMPLATE)


def certificate():
    template = {
        CKA.CLASS: ulong(CKO.CERTIFICATE),
        CKA.CERTIFICATE_TYPE: ulong(CKC.X_509),
        CKA.SUBJECT: b"0",
        CKA.VALUE: b"1",
    }
    return attribute.complete(template, CKO.CERTIFICATE, None, CREATE)


@pytest.mark.parametrize(
    ("changes", "rv"),
    [
        ({CKA.VALUE: b"2"}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.CLASS: ulong(CKO.DATA)}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.TOKEN: TRUE}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.EC_POINT: b"2"}, CKR.ATTRIBUTE_TYPE_INVALID),
    ],
)
def test_changes_that_are_refused(changes, rv):
    refused(rv, attribute.check_change, certificate(), changes)


def test_changes_one_way():
    attributes = certificate()
    attribute.check_change(attributes, {CKA.COPYABLE: FALSE, CKA.LABEL: b"new", CKA.ID: b"1"})
    attribute.check_change(attributes, {CKA.COPYABLE: TRUE})
    refused(CKR.ATTRIBUTE_READ_ONLY, attribute.check_change, {**attributes, CKA.COPYABLE: FALSE}, {CKA.COPYABLE: TRUE})


def test_nothing_changes_in_an_object_that_is_not_modifiable():
    fixed = {**certificate(), CKA.MODIFIABLE: FALSE}
    refused(CKR.ACTION_PROHIBITED, attribute.check_change, fixed, {CKA.LABEL: b"new"})
