"""Our hashes and HMACs beside hashlib's and hmac's."""

import hashlib
import hmac
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p11tpm.algorithm import HASHES
from p11tpm.crypto import hashes


@pytest.mark.parametrize("name", HASHES)
@given(key=st.binary(max_size=300), data=st.binary(max_size=300))
def test_they_are_those_of_hashlib(name, key, data):
    assert hashes.digest(name, data) == hashlib.new(name, data).digest()
    assert hashes.mac(name, key, data) == hashes.mac(name, bytearray(key), data) == hmac.digest(key, data, name)
    begun, theirs = hashes.new(name), hashlib.new(name)
    for part in (data, key, b""):
        begun.update(part)
        theirs.update(part)
        assert begun.digest() == theirs.digest()


def test_libcrypto_is_left_alone():
    code = (
        "import sys; from p11tpm.crypto import hashes; hashes.mac('sha256', b'', b''); print('_hashlib' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
        == "False\n"
    )
