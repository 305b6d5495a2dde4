"""step-ca, which signs with keys in the token through its own support of PKCS#11 (crypto11, from Go)."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from cryptography.x509.oid import NameOID

import rig
from rig.caclient import Order
from rig.confined import confined
from rig.process import clean_env, free_port
from rig.program import openssl, said
from rig.provisioner import Provisioner
from rig.recipe import Recipe
from rig.resolver import Resolver
from rig.signing import Image
from rig.stepca import ROOT, StepCa, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)  # the first of them may have to make step-ca

OFFICE = Provisioner()
FOR_CERTIFICATES = x509.KeyUsage(
    key_cert_sign=True,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
UNIT = ROOT / "systemd" / "step-ca.service"


def new_directory(path: Path) -> Path:
    path.mkdir()
    return path


def order_by_acme(ca: StepCa, records: Path, directory: Path, name: str) -> str:
    """The chain that dehydrated, an ACME client of Debian, gets; what it has to show in the DNS goes to `records`."""
    hook = directory / "hook"
    hook.write_text(f'#!/bin/sh\n[ "$1" = deploy_challenge ] && echo "$4" >> {records} || true\n')
    hook.chmod(0o700)
    config = {
        "CA": f"https://localhost:{ca.port}/acme/acme/directory",
        "BASEDIR": directory / "acme",
        "CHALLENGETYPE": "dns-01",
        "HOOK": hook,
        "KEY_ALGO": "prime256v1",
        "CURL_OPTS": f"'--cacert {ca.root}'",
    }
    file = directory / "dehydrated"
    file.write_text("".join(f"{word}={value}\n" for word, value in config.items()))
    (directory / "acme").mkdir()
    command = ["/usr/bin/dehydrated", "--config", file]
    said([*command, "--register", "--accept-terms"], clean_env(), directory)
    said([*command, "--cron", "--domain", name], clean_env(), directory)
    return (directory / "acme" / "certs" / name / "fullchain.pem").read_text()


def write_chain(directory: Path, public_key: Path) -> None:
    """root.crt of a root that has no token, and intermediate.crt which it gives to a key in one."""
    root = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    issuers_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
    for name, key in ("root", root.public_key()), ("intermediate", load_pem_public_key(public_key.read_bytes())):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - dt.timedelta(hours=1))
        builder = builder.not_valid_after(now + dt.timedelta(days=9))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        builder = builder.add_extension(issuers_key, critical=False)
        builder = builder.add_extension(FOR_CERTIFICATES, critical=True)
        certificate = builder.sign(root, hashes.SHA256())
        (directory / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))


def check_chain(chain: str, name: str, ca: StepCa, directory: Path) -> None:
    """OpenSSL finds that the first certificate is for this name, and that the others lead to the root."""
    (directory / "chain.pem").write_text(chain)
    chosen = ("-CAfile", ca.root, "-untrusted", directory / "chain.pem", "-verify_hostname", name)
    openssl("verify", "-no-CAstore", "-no-CApath", *chosen, directory / "chain.pem")


def check_silent(ca: StepCa) -> None:
    """All that the log says is what step-ca says, with the time."""
    assert [line for line in ca.log.splitlines() if line and not re.match(r"(badger )?20\d\d/\d\d/\d\d ", line)] == []


def issue(ca: StepCa, count: int, clients: int = 16) -> str:
    """So many certificates, all of which must be good; tell how fast it was."""
    issuer = x509.load_pem_x509_certificate((ca.root.parent / "intermediate.crt").read_bytes())
    order = Order("web.example.com")

    def work(index: int) -> tuple[list[str], int]:
        leaves, errors = [], 0
        with ca.client() as client:
            for _ in range(index, count, clients):
                try:
                    leaves.append(client.sign(order, OFFICE)[0])
                except AssertionError:  # HTTP 500
                    errors += 1
        return leaves, errors

    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        done = list(pool.map(work, range(clients)))
    rate = count / (time.monotonic() - start)
    told = f"{rate:.0f} certificates/s, {sum(errors for _, errors in done)} errors"
    found = [x509.load_pem_x509_certificate(leaf.encode()) for leaves, _ in done for leaf in leaves]
    for certificate in found:
        certificate.verify_directly_issued_by(issuer)
    assert len({certificate.serial_number for certificate in found}) == count, told
    return told


def prepared(
    user: rig.User, directory: Path, label: str = "intermediate", pin: Path | None = None, **more: object
) -> dict[str, object]:
    """ca.json for a CA whose intermediate key is `label`, with the PIN in the file `pin`, else the user's own."""
    write_chain(directory, user.public_pem(label, directory / f"{label}.pub"))
    kms = f"pkcs11:module-path={user.module};token=p11tpm;pin-source=file:{pin or user.pin_file}"
    return {**settings(directory, kms, f"pkcs11:object={label}", OFFICE.entry), **more}


@pytest.fixture(scope="module")
def owner(new_user: type[rig.User], tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.User]:
    """A user with the keys of a CA: intermediate, ssh-host, ssh-user."""
    with rig.Tabrmd(max_tries=32) as tpm:
        user = new_user(tpm, tmp_path_factory.mktemp("owner"))
        user.create_token()
        for label in ("intermediate", "ssh-host", "ssh-user"):
            user.generate("p256", label)
        yield user


@pytest.fixture(scope="module")
def running(owner: rig.User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepCa]:
    files = tmp_path_factory.mktemp("ca")
    ssh = {"hostKey": "pkcs11:object=ssh-host", "userKey": "pkcs11:object=ssh-user"}
    with StepCa(prepared(owner, files, ssh=ssh), owner.env, files) as started:
        yield started.ready()


@pytest.fixture
def ca(running: StepCa) -> Iterator[StepCa]:
    """One for all tests that ask for it."""
    yield running
    check_silent(running)


def test_recipe_and_acme(new_user: type[rig.User], tmp_path: Path) -> None:
    """The CA's user does what it says, and makes a token; the root's key is in it, too."""
    with rig.Tabrmd(max_tries=32) as tpm:
        reader, user = (new_user(tpm, new_directory(tmp_path / name)) for name in ("root", "step-ca"))
        reader.create_token()
        port, files = free_port(), new_directory(tmp_path / "files")
        rig.write_secret(files / "pin", user.pin)
        places = {
            "/var/lib/step-ca": files,
            '":9000"': f'"127.0.0.1:{port}"',
            "ca.example.com:9000": f"localhost:{port}",
            "ca.example.com": "localhost",
        }
        recipe = Recipe(user, Recipe.of(reader, "step-ca").blocks, places)
        recipe.run(1)
        records = tmp_path / "records"
        with Resolver(records) as resolver:
            wanted = ("--resolver", resolver.address)
            with StepCa(json.loads(recipe.text(2)), user.env, files, options=wanted) as ca:
                ca.ready()
                assert '{"status":"ok"}' in recipe.run(3)
                check_chain(order_by_acme(ca, records, tmp_path, "web.example.com"), "web.example.com", ca, tmp_path)
                check_silent(ca)


def test_token_of_a_provisioner(ca: StepCa, tmp_path: Path) -> None:
    order = Order("web.example.com")
    with ca.client() as client:
        check_chain("".join(client.sign(order, OFFICE)), order.name, ca, tmp_path)


def test_renewal(ca: StepCa, tmp_path: Path) -> None:
    order = Order("web.example.com")
    with ca.client() as client:
        first = client.sign(order, OFFICE)
    with ca.client(order.save(tmp_path / "client.pem", first)) as client:
        second = client.renew()
    assert second[0] != first[0]
    check_chain("".join(second), order.name, ca, tmp_path)


@pytest.mark.parametrize("kind", ["user", "host"])
def test_ssh_certificate(ca: StepCa, owner: rig.User, tmp_path: Path, kind: str) -> None:
    key = tmp_path / "key"
    said(["/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], owner.env, tmp_path)
    with ca.client() as client:
        line = client.sign_ssh(kind, key.with_suffix(".pub").read_text(), "alice", OFFICE)
    (tmp_path / "key-cert.pub").write_text(line)
    told = said(["/usr/bin/ssh-keygen", "-L", "-f", tmp_path / "key-cert.pub"], owner.env, tmp_path)
    (tmp_path / "ca.pub").write_text(owner.public_key(f"ssh-{kind}"))
    fingerprint = said(["/usr/bin/ssh-keygen", "-l", "-f", tmp_path / "ca.pub"], owner.env, tmp_path).split()[1]
    assert f"{kind} certificate" in told
    assert f"Signing CA: ECDSA {fingerprint}" in told
    assert "alice" in told.partition("Principals:")[2]


def test_500_certificates_from_16_clients(ca: StepCa) -> None:
    print(issue(ca, 500))  # noqa: T201 - the rate


def test_killed_and_started_again(ca: StepCa) -> None:
    issue(ca, 20)
    ca.restart()
    issue(ca, 20)


def test_reload_after_1100_operations(ca: StepCa) -> None:
    print(issue(ca, 1100))  # noqa: T201 - the rate
    ca.reload()
    issue(ca, 100)


@pytest.mark.parametrize("algorithm", ["p384", "rsa2048", "rsa3072"])
def test_key_of_the_authority(owner: rig.User, tmp_path: Path, algorithm: str) -> None:
    owner.generate(algorithm, algorithm)
    order = Order("web.example.com")
    with (
        StepCa(prepared(owner, tmp_path, algorithm), owner.env, tmp_path) as running,
        running.ready().client() as client,
    ):
        check_chain("".join(client.sign(order, OFFICE)), order.name, running, tmp_path)
        check_silent(running)


def test_tpm_restarted(new_user: type[rig.User], swtpm: rig.Swtpm, tmp_path: Path) -> None:
    user = new_user(swtpm, tmp_path)
    user.create_token()
    user.generate("p256", "intermediate")
    with StepCa(prepared(user, tmp_path), user.env, tmp_path) as running:
        issue(running.ready(), 10, clients=4)
        swtpm.restart()
        issue(running, 10, clients=4)
        check_silent(running)


def test_wrong_pin(new_user: type[rig.User], swtpm: rig.Swtpm, tmp_path: Path) -> None:
    """step-ca ends, which costs one of the TPM's tries, and starts again with the right PIN."""
    user = new_user(swtpm, tmp_path)
    user.create_token()
    user.generate("p256", "intermediate")
    wrong = rig.write_secret(tmp_path / "wrong", "654321")
    with StepCa(prepared(user, tmp_path, pin=wrong), user.env, tmp_path) as refused:
        assert "CKR_PIN_INCORRECT" in refused.ended()
        assert not any(pin in refused.log for pin in ("654321", user.pin))
    assert swtpm.lockout_counter() == 1
    with StepCa(prepared(user, tmp_path), user.env, tmp_path) as running:
        issue(running.ready(), 1, clients=1)


def test_pin_from_a_credential(owner: rig.User, tmp_path: Path) -> None:
    """As systemd hands it over: a directory of the service's own, in which nothing can be changed."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    pin = rig.write_secret(credentials / "p11tpm.pin", owner.pin)
    pin.chmod(0o400)
    credentials.chmod(0o500)
    env = {**owner.env, "CREDENTIALS_DIRECTORY": str(credentials)}
    with StepCa(prepared(owner, tmp_path, pin=pin), env, tmp_path) as running:
        issue(running.ready(), 1, clients=1)
        check_silent(running)


def test_token_without_pin(swtpm: rig.Swtpm, tmp_path: Path) -> None:
    """Step-ca logs in all the same, with any PIN, and is told that there is no need to."""
    user = rig.User(swtpm, tmp_path)
    user.p11tpm("token", "create", "--label", "p11tpm", "--no-pin")
    user.p11tpm("key", "generate", "--label", "intermediate")
    with StepCa(prepared(user, tmp_path), user.env, tmp_path) as running:
        issue(running.ready(), 10, clients=4)
        check_silent(running)


def test_what_the_unit_forbids(owner: rig.User, tmp_path: Path) -> None:
    within = confined(UNIT, owner.directory)
    tried = "grep Seccomp_filters: /proc/self/status; echo > /tmp/new || true; ls /proc/sys || true"
    told = said([*within, "/bin/sh", "-c", tried], owner.env, tmp_path)
    assert all(word in told for word in ("Seccomp_filters:\t2", "Read-only file system", "No such file")), told
    files = owner.directory / "confined"
    files.mkdir()
    with StepCa(prepared(owner, files), owner.env, files, wrapper=within) as running:
        issue(running.ready(), 20)
        running.reload()
        issue(running, 20)
        check_silent(running)


def test_unit(tmp_path: Path) -> None:
    """systemd understands all of it, and finds little that is left open: from 10 (unsafe) to 0."""
    unit = tmp_path / "step-ca.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/step-ca ", "/bin/true "))
    tool = "/usr/bin/systemd-analyze"
    assert said([tool, "verify", "--man=no", unit], clean_env(), tmp_path) == ""
    said([tool, "security", "--offline=yes", "--threshold=20", unit], clean_env(), tmp_path)


def test_a_bound_token_survives_an_update_of_the_kernel(swtpm: rig.Swtpm, tmp_path: Path) -> None:
    """The next kernel brings signatures of its own by the same key; without them the CA does not start."""
    user = rig.User(swtpm, tmp_path)
    signatures = tmp_path / "signatures.json"
    rig.write_secret(tmp_path / "p11tpm.conf", f"pcr-signature = {signatures}\n")
    image = Image(tmp_path)
    signatures.write_text(image.signatures(swtpm))
    image.boot(swtpm)
    bound = ("--signed-pcr", "11", "--pcr-key", image.public_file)
    user.p11tpm("token", "create", "--label", "p11tpm", *bound, "--pin-file", user.pin_file)
    user.generate("p256", "intermediate")
    with StepCa(prepared(user, tmp_path), user.env, tmp_path) as running:
        issue(running.ready(), 10, clients=4)
        check_silent(running)
    swtpm.reboot()
    update = Image(tmp_path, b"a new kernel\n", image.key)
    update.boot(swtpm)
    with StepCa(prepared(user, tmp_path), user.env, new_directory(tmp_path / "refused")) as refused:
        assert "CKR_FUNCTION_FAILED" in refused.ended()
    signatures.write_text(update.signatures(swtpm))
    with StepCa(prepared(user, tmp_path), user.env, tmp_path) as running:
        issue(running.ready(), 10, clients=4)
        check_silent(running)
    assert swtpm.lockout_counter() == 0
