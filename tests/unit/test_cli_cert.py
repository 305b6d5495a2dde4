import datetime as dt
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_public_key

from command import failed, good

CA_KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(public_key, name="somebody", serial=0x80FF):
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a CA")])
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return x509.CertificateBuilder(issuer, subject, public_key, serial, begin, begin + dt.timedelta(days=365)).sign(
        CA_KEY, SHA256()
    )


@pytest.fixture
def cli(p11tpm_cli):
    """The command with keys `ssh` and `web` in a token without PIN."""
    good(p11tpm_cli("init", "--no-pin"))
    good(p11tpm_cli("key", "generate", "--label", "web", "--algorithm", "rsa2048"))
    return p11tpm_cli


def keys(cli):
    return {key["label"]: key for key in json.loads(good(cli("key", "list", "--json")))}


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("label", ["ssh", "web"])
def test_a_certificate_finds_its_key(cli, tmp_path, encoding, label):
    key = keys(cli)[label]
    cert = certificate(load_ssh_public_key(key["openssh"].encode()))
    file = tmp_path / "any.name"
    file.write_bytes(cert.public_bytes(encoding))
    uri = good(cli("cert", "import", file)).strip()
    assert uri == key["uri"].replace("type=private", "type=cert")
    (shown,) = json.loads(good(cli("cert", "list", "--json")))
    assert (key["id"], label, "CN=somebody", "80ff") == tuple(
        shown[it] for it in ("id", "label", "subject", "serial_number")
    )
    assert cert == x509.load_pem_x509_certificate(shown["pem"].encode())
    assert "until 2027-01-01" in good(cli("cert", "list"))


def test_one_without_a_key_is_named_by_its_file(cli, tmp_path):
    cert = certificate(CA_KEY.public_key())
    file = tmp_path / "ca.pem"
    file.write_bytes(cert.public_bytes(Encoding.PEM))
    good(cli("cert", "import", file))
    (shown,) = json.loads(good(cli("cert", "list", "--json")))
    assert ("ca", x509.SubjectKeyIdentifier.from_public_key(CA_KEY.public_key()).digest.hex()) == (
        shown["label"],
        shown["id"],
    )
    failed(cli("cert", "import", file), "has this certificate already")
    failed(cli("cert", "delete", "ca"), "add --yes", 2)
    good(cli("cert", "delete", "ca", "--yes"))
    assert good(cli("cert", "list")) == ""


def test_what_is_no_certificate_is_refused(cli, tmp_path):
    file = tmp_path / "x.pem"
    one = certificate(CA_KEY.public_key()).public_bytes(Encoding.PEM)
    for content, why in (
        (b"", "no X.509"),
        (b"\x30\x03\x02\x01\x01", "no X.509"),
        (one[:200], "no X.509"),
        (one + one, "2 cert"),
    ):
        file.write_bytes(content)
        failed(cli("cert", "import", file), why)
    failed(cli("cert", "import", tmp_path / "none"), "does not exist", 2)


def test_deleting_a_key_leaves_its_certificate(cli, tmp_path):
    file = tmp_path / "x.pem"
    file.write_bytes(certificate(load_ssh_public_key(keys(cli)["web"]["openssh"].encode())).public_bytes(Encoding.PEM))
    good(cli("cert", "import", file, "--label", "other"))
    good(cli("key", "delete", "web", "--yes"))
    assert [one["label"] for one in json.loads(good(cli("cert", "list", "--json")))] == ["other"]
