import re
from urllib.parse import unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st

from p11tpm.cli.uri import CERTIFICATE, PRIVATE, object_uri, token_uri

# RFC 7512 clause 2.3: what may stand in a value without being encoded, taken narrowly
VALUE = r"(?:[A-Za-z0-9\-._~]|%[0-9A-F]{2})*"


def test_uri_of_a_token():
    assert token_uri("my token", "0011223344556677") == "pkcs11:token=my%20token;serial=0011223344556677"


def test_uri_of_an_object():
    uri = object_uri("p11tpm", b"\x01A\xff", "läuft".encode(), PRIVATE)
    assert uri == "pkcs11:token=p11tpm;id=%01%41%FF;object=l%C3%A4uft;type=private"


def test_what_is_empty_is_left_out():
    assert object_uri("t", b"", b"", CERTIFICATE) == "pkcs11:token=t;type=cert"


@given(st.text(max_size=32), st.binary(max_size=20), st.binary(max_size=20))
def test_every_value_comes_back(token, id_, label):
    uri = object_uri(token, id_, label, PRIVATE)
    assert re.fullmatch(rf"pkcs11:token={VALUE}(;id={VALUE})?(;object={VALUE})?;type=private", uri)
    parts = dict(part.split("=") for part in uri.removeprefix("pkcs11:").split(";"))
    assert unquote_to_bytes(parts["token"]) == token.encode(errors="replace")
    assert unquote_to_bytes(parts.get("id", "")) == id_
    assert unquote_to_bytes(parts.get("object", "")) == label
