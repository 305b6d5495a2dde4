"""C_CreateObject takes the certificates that `p11tpm cert import` takes, and keeps them as they are."""

import pytest

from certificates import ODD, certificate
from p11tpm.attribute import TRUE, ulong
from p11tpm.ck import CKA, CKC, CKO, CKR
from p11tpm.crypto.der import Certificate, PublicKey


def template(value):
    kind = {CKA.CLASS: ulong(CKO.CERTIFICATE), CKA.CERTIFICATE_TYPE: ulong(CKC.X_509), CKA.TOKEN: TRUE}
    return {**kind, CKA.VALUE: value}


def test_what_few_libraries_read_is_kept(token, session):
    for name, (value, _) in ODD.items():
        made = token.create(session, template(value))
        fields = Certificate(value)
        assert token.get(session, made, CKA.VALUE) == value, name
        assert token.get(session, made, CKA.SUBJECT) == fields.subject, name
        assert token.get(session, made, CKA.SERIAL_NUMBER) == fields.serial, name
        assert token.get(session, made, CKA.PUBLIC_KEY_INFO) == fields.public_key, name
        assert token.find(session, {CKA.SUBJECT: fields.subject, CKA.VALUE: value}) == [made], name


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value[:-1],
        lambda value: value + b"\0",
        lambda value: b"\x31" + value[1:],
        lambda value: value.replace(b"\xa0\x03\x02\x01\x02", b"\x04\x03\x02\x01\x02"),
        lambda value: value.replace(PublicKey(Certificate(value).public_key).bits, b""),
        lambda _: b"",
    ],
)
def test_what_is_no_certificate_is_refused(token, session, spoil):
    value = spoil(certificate())
    wrong = CKR.ATTRIBUTE_VALUE_INVALID if value else CKR.TEMPLATE_INCOMPLETE
    assert token.raw.C_CreateObject(session, *token.template(template(value)), token.ulong()) == wrong
