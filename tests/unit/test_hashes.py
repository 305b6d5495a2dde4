"""Our short form of HMAC beside hashlib's and hmac's."""

import hashlib
import hmac
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p11tpm.crypto import hashes

NAMES = ("sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256")


@pytest.mark.parametrize("name", NAMES)
@given(key=st.binary(max_size=300), data=st.binary(max_size=300))
def test_they_are_those_of_hashlib(name, key, data):
    assert hashes.digest(name, data) == hashlib.new(name, data).digest()
    assert hashes.mac(name, key, data) == hashes.mac(name, bytearray(key), data) == hmac.digest(key, data, name)
    begun = hashes.new(name)
    begun.update(data)
    assert begun.digest() == hashes.digest(name, data)


@pytest.mark.parametrize("name", NAMES)
def test_a_python_without_its_own(name, monkeypatch):
    monkeypatch.setattr(hashes, "_found", {})
    for module in ("_sha1", "_sha2", "_sha256", "_sha512"):
        monkeypatch.setitem(sys.modules, module, None)
    assert hashes.mac(name, b"key", b"data") == hmac.digest(b"key", b"data", name)


def test_libcrypto_is_left_alone():
    code = (
        "import sys; from p11tpm.crypto import hashes; hashes.mac('sha256', b'', b''); print('_hashlib' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
        == "False\n"
    )
