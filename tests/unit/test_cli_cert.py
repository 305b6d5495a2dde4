import datetime as dt
import hashlib
import json
import shlex
import subprocess
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_ssh_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

import certificates
from certificates import ODD, armored, bits, seq, spki
from command import failed, good
from p11tpm.cli import x509 as shown_by_us
from p11tpm.cli.certfile import read_certificate
from p11tpm.crypto import der
from p11tpm.error import Error

pytestmark = pytest.mark.slow  # each test starts the command several times

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
        (b"", "is not an X.509"),
        (b"\x30\x03\x02\x01\x01", "is not an X.509"),
        (one[:200], "is not an X.509"),
        (one + one, "2 cert"),
    ):
        file.write_bytes(content)
        failed(cli("cert", "import", file), why)
    failed(cli("cert", "import", tmp_path / "none"), "does not exist", 2)


# -- certificates that few libraries read


def fields(name):
    """What is said of an odd certificate at least."""
    return {"subject": "CN=odd", "serial_number": "1267", "not_after": "2046-01-01T00:00:00+00:00", **ODD[name][1]}


@pytest.mark.parametrize("name", ODD)
def test_every_field_that_can_be_read_is_read(name):
    said = shown_by_us.described(der.Certificate(ODD[name][0]))
    assert said.items() >= fields(name).items()
    assert said["issuer"] == "CN=a CA"


def test_odd_certificates_are_kept_and_listed(cli, tmp_path):
    """As bytes, without a word of any library."""
    file = tmp_path / "odd.pem"
    for name, (value, _) in ODD.items():
        file.write_bytes(armored(value))
        good(cli("cert", "import", file, "--label", name))
    shown = json.loads(good(cli("cert", "list", "--json")))
    assert [one["label"] for one in shown] == list(ODD)
    for one, (name, (value, _)) in zip(shown, ODD.items(), strict=True):
        assert one.items() >= fields(name).items()
        key = der.PublicKey(der.Certificate(value).public_key).bits
        assert one["id"] == hashlib.sha1(key).hexdigest()
        file.write_text(one["pem"])
        assert read_certificate(file) == value
    lines = [line for line in good(cli("cert", "list")).splitlines() if "until 2046-01-01" in line]
    assert len(lines) == len(ODD)


def test_the_identifier_is_that_of_other_programs():
    value = certificates.certificate()
    key = x509.load_der_x509_certificate(value).public_key()
    ours = der.PublicKey(der.Certificate(value).public_key).identifier
    assert ours == x509.SubjectKeyIdentifier.from_public_key(key).digest


WHOLE = certificates.certificate(certificates.named("x"))


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=4), st.booleans())
def test_whatever_the_octets_are_they_are_read_or_refused(at, new, insert):
    value = WHOLE[:at] + new + WHOLE[at if insert else at + len(new) :]
    with suppress(Error):
        said = shown_by_us.described(der.Certificate(value))
        assert all(text.isprintable() for text in said.values())


# -- the key of a certificate, by its numbers


@pytest.mark.parametrize("parameters", ["named_curve", "explicit"])
@pytest.mark.parametrize("form", ["uncompressed", "compressed", "hybrid"])
def test_an_ec_key_is_found_by_its_numbers(cli, tmp_path, form, parameters):
    key, file = keys(cli)["ssh"], tmp_path / "x.pem"
    write = ["openssl", "ec", "-pubin", "-conv_form", form, "-param_enc", parameters, "-outform", "DER"]
    public = good(cli("key", "public", "ssh", "--format", "pem")).encode()
    info = subprocess.run(write, input=public, capture_output=True, timeout=60, check=True).stdout
    file.write_bytes(armored(certificates.certificate(public=info)))
    assert good(cli("cert", "import", file)).strip() == key["uri"].replace("type=private", "type=cert")


@pytest.mark.parametrize("oid", ["2a864886f70d01010a", "2a864886f70d010107", "2a864886f70d010101"])
def test_an_rsa_key_is_found_by_its_numbers(cli, tmp_path, oid):
    """rsaEncryption without its NULL, id-RSASSA-PSS and id-RSAES-OAEP."""
    key = keys(cli)["web"]
    numbers = der.PublicKey(spki(load_ssh_public_key(key["openssh"].encode()))).bits
    file = tmp_path / "x.pem"
    info = seq(seq(certificates.tlv(6, bytes.fromhex(oid))), bits(numbers))
    file.write_bytes(armored(certificates.certificate(public=info)))
    assert good(cli("cert", "import", file)).strip() == key["uri"].replace("type=private", "type=cert")


# -- files


ONE = certificates.certificate()
FORMS = {
    "text before it": b"subject=CN = odd\nissuer=CN = a CA\n" + armored(ONE),
    "text in other encodings": "Größe\n".encode("latin-1") + armored(ONE) + b"\xff\xfe",
    "behind the first MiB": b"# a comment of the authority\n" * 50_000 + armored(ONE),
    "trusted": armored(ONE + seq(seq(bytes.fromhex("06082b06010505070301"))), "TRUSTED CERTIFICATE"),
    "an older name": armored(ONE, "X509 CERTIFICATE"),
    "headers": armored(ONE).replace(b"-----\n", b"-----\nComment: x\nX: y\n\n", 1),
    "CRLF": armored(ONE).replace(b"\n", b"\r\n"),
    "indented": armored(ONE).replace(b"\n", b"\n  "),
    "beside a key": armored(b"\x30\0", "PRIVATE KEY") + armored(ONE) + armored(b"\x30\0", "EC PARAMETERS"),
    "DER": ONE,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_file(tmp_path, form):
    file = tmp_path / "x"
    file.write_bytes(FORMS[form])
    assert read_certificate(file) == ONE


def test_a_trusted_certificate_of_openssl(tmp_path):
    file, trusted = tmp_path / "x.pem", tmp_path / "trusted.pem"
    file.write_bytes(armored(ONE))
    command = ["openssl", "x509", "-in", file, "-trustout", "-addtrust", "serverAuth", "-text", "-out", trusted]
    subprocess.run(command, timeout=60, check=True)
    assert b"BEGIN TRUSTED CERTIFICATE" in trusted.read_bytes()
    assert read_certificate(trusted) == ONE


# What others make, and what it is
NOT_CERTIFICATES = {
    "openssl genpkey -algorithm ed25519": ("a private key", "p11tpm key generate"),
    "openssl genpkey -algorithm ed25519 -outform DER": ("a private key", "p11tpm key generate"),
    "openssl ecparam -name prime256v1 -genkey": ("a private key", "p11tpm key generate"),
    "openssl ecparam -name prime256v1": ("parameters", "import a certificate"),
    "openssl ec -in key.pem -outform DER": ("a private key", "p11tpm key generate"),
    "openssl pkcs8 -topk8 -in key.pem -passout pass:x": ("a private key", "p11tpm key generate"),
    "openssl pkcs8 -topk8 -in key.pem -passout pass:x -outform DER": ("a private key", "p11tpm key generate"),
    "openssl genrsa -traditional 1024": ("a private key", "p11tpm key generate"),
    "openssl rsa -in rsa.pem -traditional -outform DER": ("a private key", "p11tpm key generate"),
    "openssl rsa -in rsa.pem -pubout": ("a public key", "import the certificate"),
    "openssl rsa -in rsa.pem -pubout -outform DER": ("a public key", "import the certificate"),
    "openssl rsa -in rsa.pem -RSAPublicKey_out": ("a public key", "import the certificate"),
    "openssl rsa -in rsa.pem -RSAPublicKey_out -outform DER": ("a public key", "import the certificate"),
    "openssl req -new -key key.pem -subj /CN=x": ("a certificate request", "send it to your authority"),
    "openssl req -new -key key.pem -subj /CN=x -outform DER": ("a certificate request", "send it to your authority"),
    "openssl crl2pkcs7 -nocrl -certfile cert.pem": ("a PKCS #7 file", "openssl pkcs7 -print_certs"),
    "openssl crl2pkcs7 -nocrl -certfile cert.pem -outform DER": ("a PKCS #7 file", "openssl pkcs7 -print_certs"),
    "openssl pkcs12 -export -inkey key.pem -in cert.pem -passout pass:x": ("a PKCS #12 file", "openssl pkcs12 -nokeys"),
    "openssl ca -gencrl -config ca.conf": ("a certificate revocation list", "no token has one"),
    "openssl crl -in crl.pem -outform DER": ("a certificate revocation list", "no token has one"),
    "cat ssh": ("a private key", "p11tpm key generate"),
    "cat ssh.pub": ("an SSH key or certificate", "CertificateFile"),
    "ssh-keygen -e -f ssh.pub": ("an SSH key or certificate", "CertificateFile"),
    "cat java": ("a Java key store", "keytool -exportcert"),
    "cat pgp": ("an OpenPGP key", "it is for GnuPG"),
    "cat tss2": ("a private key", "p11tpm key generate"),
    "cat behind": ("with something behind it", "alone"),
    "cat other": ("neither in PEM nor in DER", ""),
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A directory with keys, a certificate and a small authority."""
    place = tmp_path_factory.mktemp("workshop")
    (place / "ca.conf").write_text(
        "[ca]\ndefault_ca = x\n[x]\ndatabase = index.txt\nprivate_key = key.pem\ncertificate = cert.pem\n"
        "default_md = sha256\ndefault_crl_days = 9\n"
    )
    for name, text in (("index.txt", b""), ("java", b"\xfe\xed\xfe\xed\0\0\0\2"), ("other", b"\x30\x03\2\1\5")):
        (place / name).write_bytes(text)
    (place / "behind").write_bytes(ONE + b"\n")
    (place / "pgp").write_bytes(armored(b"x", "PGP PUBLIC KEY BLOCK"))
    (place / "tss2").write_bytes(armored(b"x", "TSS2 PRIVATE KEY"))
    for line in (
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem",
        "openssl genrsa -out rsa.pem 1024",
        "openssl req -x509 -new -key key.pem -subj /CN=x -out cert.pem",
        "openssl ca -gencrl -config ca.conf -out crl.pem",
        "ssh-keygen -q -t ed25519 -N '' -f ssh",
    ):
        subprocess.run(shlex.split(line), cwd=place, check=True, capture_output=True, timeout=60)
    return place


@pytest.mark.parametrize("line", NOT_CERTIFICATES)
def test_what_is_no_certificate_is_named(workshop, line):
    made = subprocess.run(shlex.split(line), cwd=workshop, check=True, capture_output=True, timeout=60).stdout
    file = workshop / "what"
    file.write_bytes(made)
    what, remedy = NOT_CERTIFICATES[line]
    with pytest.raises(Error) as caught:
        read_certificate(file)
    assert f"{file} is" in caught.value.why
    assert what in caught.value.why
    assert remedy in caught.value.why
    file.write_bytes(armored(made))  # under the wrong name
    with pytest.raises(Error, match=f"{file} is"):
        read_certificate(file)


def test_a_command_to_type_has_the_name_of_the_file_in_quotes(tmp_path):
    file = tmp_path / "my {file}'s.p7b"
    file.write_bytes(armored(seq(certificates.tlv(6, bytes.fromhex("2a864886f70d010702")), b"\xa0\0"), "PKCS7"))
    with pytest.raises(Error) as caught:
        read_certificate(file)
    assert f"-in {shlex.quote(str(file))} -out certs.pem" in caught.value.why


def test_a_long_subject_does_not_push_the_others_aside(cli, tmp_path):
    file = tmp_path / "x.pem"
    for name in ("a subject of 2000 characters", "v1"):
        file.write_bytes(armored(ODD[name][0]))
        good(cli("cert", "import", file, "--label", name))
    lines = good(cli("cert", "list")).splitlines()
    assert ("x" * 2000 in lines[0], len(lines[2]) < 200) == (True, True)


def test_a_file_that_never_ends_is_refused(cli):
    failed(cli("cert", "import", "/dev/zero"), "has more than 64 MiB")


def test_what_is_named_is_said_by_the_command(cli, workshop):
    file = workshop / "what"
    file.write_bytes((workshop / "rsa.pem").read_bytes())
    failed(
        cli("cert", "import", file), f"{file} is a private key, not a certificate: the keys of a token are made in it"
    )


# -- the token's


def test_deleting_a_key_leaves_its_certificate(cli, tmp_path):
    file = tmp_path / "x.pem"
    file.write_bytes(certificate(load_ssh_public_key(keys(cli)["web"]["openssh"].encode())).public_bytes(Encoding.PEM))
    good(cli("cert", "import", file, "--label", "other"))
    good(cli("key", "delete", "web", "--yes"))
    assert [one["label"] for one in json.loads(good(cli("cert", "list", "--json")))] == ["other"]
