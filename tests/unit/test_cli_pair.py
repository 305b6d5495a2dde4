import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from p11tpm.attribute import TRUE, ulong
from p11tpm.ck import CKA, CKK, CKO
from p11tpm.cli.pair import Pair
from p11tpm.core.object import Object
from p11tpm.crypto import der, domain
from p11tpm.error import Error
from p11tpm.store import Record

CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


def public_key(algorithm):
    """Attributes of a public key, as the core describes it, and what cryptography makes of the same numbers."""
    if algorithm in CURVES:
        key = ec.generate_private_key(CURVES[algorithm]).public_key()
        numbers = key.public_numbers()
        described = der.ec_public(algorithm, numbers.x, numbers.y)
    else:
        key = rsa.generate_private_key(65537, 2048).public_key()
        numbers = key.public_numbers()
        described = der.rsa_public(numbers.n, numbers.e)
    key_type = CKK.EC if algorithm in CURVES else CKK.RSA
    named = {CKA.TOKEN: TRUE, CKA.LABEL: b"lap\ntop", CKA.ID: b"\x01\x02"}
    attributes = {
        CKA.CLASS: ulong(CKO.PUBLIC_KEY),
        CKA.KEY_TYPE: ulong(key_type),
        CKA.LOCAL: TRUE,
        **named,
        **described,
    }
    return Object(Record(1, bytes(16), attributes)), key


@pytest.mark.parametrize("algorithm", ["p256", "p384", "p521", "rsa2048"])
def test_both_forms_are_the_same_key(algorithm):
    thing, key = public_key(algorithm)
    shown = Pair("pkcs11:token=p11tpm", thing, None)
    assert shown.algorithm == algorithm
    assert serialization.load_ssh_public_key(shown.openssh().encode()).public_numbers() == key.public_numbers()
    assert serialization.load_pem_public_key(shown.pem().encode()).public_numbers() == key.public_numbers()


def test_a_point_on_no_curve_is_no_key():
    thing, _ = public_key("p256")
    thing.record.attributes.update(der.ec_public("p256", 1, 1))
    shown = Pair("pkcs11:token=p11tpm", thing, None)
    assert shown.algorithm == "p256"
    with pytest.raises(Error, match="is not a public key: delete it"):
        shown.openssh()


def test_a_label_can_not_add_a_line_to_authorized_keys():
    thing, _ = public_key("p256")
    assert len(Pair("pkcs11:token=p11tpm", thing, None).openssh().splitlines()) == 1


def test_the_uri_is_the_private_keys():
    thing, _ = public_key("p256")
    name = "pkcs11:token=p11tpm;id=%01%02;object=lap%0Atop"
    assert Pair("pkcs11:token=p11tpm", thing, thing).uri == f"{name};type=private"
    assert Pair("pkcs11:token=p11tpm", thing, None).uri == f"{name};type=public"


@pytest.mark.packages
@pytest.mark.parametrize("algorithm", ["dsa1024", "dh1024"])
def test_keys_that_openssh_does_not_have(algorithm):
    key_type = CKK.DSA if algorithm == "dsa1024" else CKK.DH
    numbers = {**domain.generated(key_type, 1024), CKA.VALUE: b"\x05"}
    named = {
        CKA.CLASS: ulong(CKO.PUBLIC_KEY),
        CKA.KEY_TYPE: ulong(key_type),
        CKA.LABEL: b"old",
        CKA.ID: b"",
        CKA.LOCAL: TRUE,
    }
    attributes = {**named, **numbers, **der.domain_public(key_type, numbers)}
    shown = Pair("pkcs11:token=p11tpm", Object(Record(1, bytes(16), attributes)), None)
    assert (shown.algorithm, shown.in_tpm) == (algorithm, False)
    with pytest.raises(Error, match="OpenSSH cannot use 'old'"):
        shown.openssh()
    command = ["openssl", "pkey", "-pubin", "-noout", "-text"]
    assert (
        "(1024 bit)"
        in subprocess.run(command, input=shown.pem(), capture_output=True, text=True, timeout=60, check=True).stdout
    )
