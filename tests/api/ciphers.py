"""AES keys, what cryptography makes of data with them, and C memory for results."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.padding import PKCS7
from cryptoki import Rv

from p11tpm.attribute import ulong
from p11tpm.ck import CKA, CKK, CKO

IV = bytes(range(16))


def software(key, mode, data):
    encryptor = Cipher(algorithms.AES(key), mode).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def pad(data):
    padder = PKCS7(128).padder()
    return padder.update(data) + padder.finalize()


def aes(run, session, value=bytes(range(16)), **more):
    template = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.AES), CKA.VALUE: value}
    return run.create(session, {**template, **more.get("with_", {})})


def fails(rv, call, *args):
    with pytest.raises(Rv) as error:
        call(*args)
    assert rv == error.value


def in_parts(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


def room(run, size):
    length = run.ulong()
    length[0] = size
    return run.ffi.new("CK_BYTE[]", max(1, size)), length
