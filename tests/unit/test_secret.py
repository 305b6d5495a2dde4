"""What is derived from a token's secret."""

import pytest

from p11tpm.ck import CKR
from p11tpm.core.secret import Secret
from p11tpm.error import Error
from p11tpm.store.rows import Record


def record(**changes):
    made = Record(1, b"u" * 16, {3: b"label", 0x108: b"\x01"}, b"public", b"private", None, 5)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def secret():
    return Secret(bytes(range(32)))


@pytest.mark.parametrize(
    "change",
    [
        {"uuid": b"v" * 16},
        {"attributes": {3: b"label", 0x108: b"\x00"}},
        {"attributes": {3: b"label"}},
        {"attributes": {3: b"label", 0x108: b"\x01", 0x102: b""}},
        {"attributes": {3: b"labe", 0x108: b"l\x01"}},
        {"tpm_public": b"publi"},
        {"tpm_public": b"publicprivate", "tpm_private": b""},
        {"tpm_private": None},
        {"mac": None},
        {"mac": b""},
    ],
)
def test_any_change_of_an_object_is_noticed(secret, change):
    good = record()
    mac = secret.mac(good)
    secret.verify(record(mac=mac))
    with pytest.raises(Error) as error:
        secret.verify(record(**{"mac": mac, **change}))
    assert error.value.rv == CKR.DEVICE_ERROR


def test_keys_have_auth_values_of_their_own(secret):
    assert secret.auth(b"1" * 16) != secret.auth(b"2" * 16)
    assert secret.auth(b"1" * 16) != Secret(bytes(range(1, 33))).auth(b"1" * 16)


def test_private_values_are_bound_to_their_object(secret):
    boxed = secret.encrypt(b"1" * 16, b"value")
    assert secret.decrypt(b"1" * 16, boxed) == b"value"
    assert boxed != secret.encrypt(b"1" * 16, b"value")
    for uuid, box in ((b"2" * 16, boxed), (b"1" * 16, boxed[:-1] + b"\0"), (b"1" * 16, b"")):
        with pytest.raises(Error) as error:
            secret.decrypt(uuid, box)
        assert error.value.rv == CKR.DEVICE_ERROR


def test_nothing_is_derived_from_a_wiped_secret(secret):
    secret.wipe()
    for call in (lambda: secret.auth(b"1" * 16), lambda: secret.mac(record()), lambda: secret.encrypt(b"1" * 16, b"")):
        with pytest.raises(Error) as error:
            call()
        assert error.value.rv == CKR.USER_NOT_LOGGED_IN
