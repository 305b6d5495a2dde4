"""Objects that other programs put into a token: one odd one never hides the others, and each can be named."""

from __future__ import annotations

import json
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certificates import certificate, tlv
from command import failed, good
from p11tpm import attribute
from p11tpm.attribute import TRUE, ulong
from p11tpm.ck import CKA, CKC, CKK, CKM, CKO
from p11tpm.cli.machine import Machine
from p11tpm.given import Given
from p11tpm.host.config import Config
from p11tpm.keys.create import create_object
from p11tpm.keys.generate import generate_pair

P224 = tlv(0x06, bytes.fromhex("2b81040021"))


def point(curve: ec.EllipticCurve) -> bytes:
    key = ec.generate_private_key(curve).public_key()
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def explicit_parameters() -> bytes:
    command = ["openssl", "ecparam", "-name", "prime256v1", "-param_enc", "explicit", "-outform", "DER"]
    return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout


FOREIGN = {  # what it is called: the parameters, the point
    "brainpoolP256r1": (tlv(0x06, bytes.fromhex("2b2403030208010107")), point(ec.BrainpoolP256R1())),
    "secp256k1": (tlv(0x06, bytes.fromhex("2b8104000a")), point(ec.SECP256K1())),
    "ec 1.2.156.10197.1.301": (tlv(0x06, bytes.fromhex("2a811ccf5501822d")), b"\4" + bytes(range(64))),
    "p192": (tlv(0x06, bytes.fromhex("2a8648ce3d030101")), b"\4" + bytes(range(48))),
    "p224": (P224, point(ec.SECP224R1())),
}


@pytest.fixture
def cli(p11tpm_cli):
    good(p11tpm_cli("init", "--no-pin"))
    return p11tpm_cli


@pytest.fixture
def token(cli, swtpm, store):  # noqa: ARG001 - makes the token
    """The token of `cli`, as another program has it."""
    config = Config()
    config.store, config.tcti = str(store), swtpm.tcti
    with Machine(config) as machine:
        yield machine.token(None)


def put_key(token, params: bytes, where: bytes, label: bytes, id_: bytes = b"") -> None:
    attributes = {CKA.EC_PARAMS: params, CKA.EC_POINT: tlv(0x04, where), CKA.LABEL: label, CKA.ID: id_}
    kind = {CKA.CLASS: ulong(CKO.PUBLIC_KEY), CKA.KEY_TYPE: ulong(CKK.EC), CKA.TOKEN: TRUE}
    create_object(token, {**kind, **attributes})


def put_certificate(token, label: bytes) -> None:
    kind = {CKA.CLASS: ulong(CKO.CERTIFICATE), CKA.CERTIFICATE_TYPE: ulong(CKC.X_509), CKA.TOKEN: TRUE}
    create_object(token, {**kind, CKA.VALUE: certificate(), CKA.LABEL: label, CKA.ID: b"\1"})


def labels(cli, noun="key"):
    return [one["label"] for one in json.loads(good(cli(noun, "list", "--json")))]


@pytest.mark.slow
@pytest.mark.packages
def test_a_key_on_a_curve_that_no_tpm_has_is_a_key(cli, token):
    foreign = {**FOREIGN, "ec with explicit parameters": (explicit_parameters(), point(ec.SECP256R1()))}
    for curve, (params, where) in foreign.items():
        put_key(token, params, where, curve.encode())
    shown = {one["label"]: one for one in json.loads(good(cli("key", "list", "--json")))}
    assert {label: one["algorithm"] for label, one in shown.items()} == {"ssh": "p256", **{one: one for one in foreign}}
    assert [label for label, one in shown.items() if one["openssh"]] == ["ssh"]
    lines = good(cli("key", "list"))
    for curve in foreign:
        assert curve in lines
        failed(cli("key", "public", curve), f"OpenSSH cannot use '{curve}'")
        pem = good(cli("key", "public", curve, "--format", "pem"))
        read = subprocess.run(
            ["openssl", "asn1parse"], input=pem, capture_output=True, text=True, timeout=60, check=True
        )
        assert "id-ecPublicKey" in read.stdout
        good(cli("key", "delete", curve, "--yes"))
    assert labels(cli) == ["ssh"]


def test_a_curve_of_the_tpm_that_openssh_does_not_have(cli, token):
    shared = {CKA.TOKEN: TRUE, CKA.LABEL: b"small"}
    generate_pair(token, Given(CKM.EC_KEY_PAIR_GEN), {**shared, CKA.EC_PARAMS: P224}, shared)
    (one,) = [one for one in json.loads(good(cli("key", "list", "--json"))) if one["label"] == "small"]
    assert (one["algorithm"], one["openssh"], one["in_tpm"]) == ("p224", "", True)
    failed(cli("key", "public", "small"), r"OpenSSH cannot use 'small', a key of p224: --format pem")
    assert good(cli("key", "public", "small", "--format", "pem")).startswith("-----BEGIN PUBLIC KEY-----")
    good(cli("key", "delete", "small", "--yes"))


def test_an_id_goes_before_a_label_that_looks_like_it(cli, token):
    (ssh,) = json.loads(good(cli("key", "list", "--json")))
    params, where = FOREIGN["secp256k1"]
    put_key(token, params, where, ssh["id"].encode(), b"\xab")
    assert good(cli("key", "public", ssh["id"])).startswith("ecdsa-sha2-nistp256 ")
    assert good(cli("key", "public", ssh["id"].upper())).startswith("ecdsa-sha2-nistp256 ")
    failed(cli("key", "public", "ab"), "OpenSSH cannot use")
    good(cli("key", "delete", ssh["id"], "--yes"))
    assert labels(cli) == [ssh["id"]]
    good(cli("key", "delete", ssh["id"], "--yes"))
    assert labels(cli) == []


@pytest.mark.slow
@pytest.mark.parametrize("label", [b"\xff\xfe", b"caf\xe9 au lait", b"\\xff", b"a\nb\x1b[31m", b"\xed\xa0\x80"])
def test_a_label_of_any_bytes_is_shown_and_found(cli, token, monkeypatch, label):
    params, where = FOREIGN["secp256k1"]
    with monkeypatch.context() as patch:  # as it may have come into the store
        patch.setattr(attribute.row_of(CKO.PUBLIC_KEY, None, CKA.LABEL), "valid", attribute.BYTES)
        put_key(token, params, where, label, b"\xab")
        put_certificate(token, label)
    text = label.decode(errors="backslashreplace")
    shown = "".join(character if character.isprintable() else "\ufffd" for character in text)
    encoded = "".join(f"%{octet:02X}" if not chr(octet).isalnum() or octet > 127 else chr(octet) for octet in label)
    for noun, what in (("key", "public"), ("cert", "cert")):
        (one,) = [one for one in json.loads(good(cli(noun, "list", "--json"))) if one["label"] != "ssh"]
        assert one["label"] == text
        assert one["uri"].endswith(f";object={encoded};type={what}")
        assert shown in good(cli(noun, "list"))
    assert "BEGIN PUBLIC KEY" in good(cli("key", "public", shown, "--format", "pem"))
    assert "BEGIN PUBLIC KEY" in good(cli("key", "public", label.decode(errors="surrogateescape"), "--format", "pem"))
    good(cli("cert", "delete", shown, "--yes"))
    good(cli("key", "delete", shown, "--yes"))
    assert labels(cli) == ["ssh"]
    assert labels(cli, "cert") == []
