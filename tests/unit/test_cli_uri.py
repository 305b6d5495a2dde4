import re
from urllib.parse import unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st

from p11tpm.cli.uri import CERTIFICATE, PRIVATE, object_uri, token_uri
from p11tpm.store.rows import TokenRow

# RFC 7512 clause 2.3: what may stand in a value without being encoded, taken narrowly
VALUE = r"(?:[A-Za-z0-9\-._~]|%[0-9A-F]{2})*"
TOKEN = "pkcs11:token=t"


def row(label, tpm="STM|ST33HTPHAHD8|1.2"):
    return TokenRow(label=label, serial="0011223344556677", tpm=tpm)


def parts(uri):
    return {name: unquote_to_bytes(value) for name, value in (part.split("=") for part in uri[7:].split(";"))}


def test_uri_of_a_token():
    uri = "pkcs11:model=ST33HTPHAHD8;manufacturer=STM;serial=0011223344556677;token=my%20token"
    assert token_uri(row("my token")) == uri


def test_a_field_is_as_long_as_in_the_structure():
    """CK_TOKEN_INFO: a model of 16 bytes, a label of 32; cut at a character, as C_GetTokenInfo does."""
    found = parts(token_uri(row("ž" * 17 + "z", "IFX|SLB9670 is a long name|7")))
    assert (found["model"], found["token"]) == (b"SLB9670 is a lon", ("ž" * 16).encode())
    assert parts(token_uri(row("ends in blanks  ", "A|a model of a kind|1")))["model"] == b"a model of a kin"
    assert parts(token_uri(row("ends in blanks  ")))["token"] == b"ends in blanks"


def test_uri_of_an_object():
    uri = object_uri(TOKEN, b"\x01A\xff", "läuft".encode(), PRIVATE)
    assert uri == "pkcs11:token=t;id=%01%41%FF;object=l%C3%A4uft;type=private"


def test_what_is_empty_is_left_out():
    assert object_uri(TOKEN, b"", b"", CERTIFICATE) == "pkcs11:token=t;type=cert"


@given(
    st.text(max_size=10).filter(lambda text: text == text.rstrip(" ")), st.binary(max_size=20), st.binary(max_size=20)
)
def test_every_value_comes_back(token, id_, label):
    uri = object_uri(token_uri(row(token)), id_, label, PRIVATE)
    place = rf"pkcs11:model={VALUE};manufacturer={VALUE};serial={VALUE};token={VALUE}"
    assert re.fullmatch(rf"{place}(;id={VALUE})?(;object={VALUE})?;type=private", uri)
    found = parts(uri)
    assert found["token"] == token.encode()
    assert (found.get("id", b""), found.get("object", b"")) == (id_, label)
