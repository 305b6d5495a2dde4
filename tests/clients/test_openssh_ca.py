"""An SSH certificate authority whose key is in the token, and certificates for keys that are there, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import rig
from clients.test_openssh import add, by_agent, check_silent, check_welcome, provider, public_file, start_agent
from rig.recipe import Recipe
from rig.sshd import current_user, make_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYGEN = "/usr/bin/ssh-keygen"
KEYS = {"ssh": "p256", "ca": "p384", "work": "rsa2048"}
HOST = "host.example.org"


@pytest.fixture(scope="module")
def user(new_user: type[rig.User], tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.User]:
    """A user with KEYS for all tests of this file, which leave them alone."""
    with rig.Tabrmd(max_tries=32) as tpm:
        owner = new_user(tpm, tmp_path_factory.mktemp("user"))
        owner.init_keys(KEYS)
        yield owner


@pytest.fixture(scope="module")
def trusting(user: rig.User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.Sshd]:
    """A server that knows nobody's key, but that of the authority."""
    authority = public_file(user, "ca", tmp_path_factory.mktemp("trusting"))
    with rig.Sshd(f'TrustedUserCAKeys "{authority}"') as server:
        yield server


def certify(user: rig.User, label: str, public: Path, *options: str) -> Path:
    """The certificate by the authority `label` for the key `public`."""
    authority = public_file(user, label, user.directory)
    done = user.run(KEYGEN, "-q", "-s", authority, "-D", user.module, "-I", "id", *options, public)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    return public.with_name(f"{public.stem}-cert.pub")


@pytest.mark.parametrize("label", KEYS)
def test_certificate(user: rig.User, tmp_path: Path, label: str) -> None:
    """Ssh-keygen shows whose signature it is, which it verifies."""
    certificate = certify(user, label, make_key(tmp_path / "subject").with_suffix(".pub"), "-n", "me")
    shown = user.run(KEYGEN, "-L", "-f", certificate).stdout.decode()
    fingerprint = user.run(KEYGEN, "-l", "-f", user.directory / f"{label}.pub").stdout.decode().split()[1]
    assert f"{'RSA' if label == 'work' else 'ECDSA'} {fingerprint}" in shown


@pytest.mark.parametrize("way", ["ssh", "agent"])
@pytest.mark.parametrize("label", ["ssh", "work"])
def test_login_with_certificate_on_key(
    user: rig.User, trusting: rig.Sshd, tmp_path: Path, label: str, way: str
) -> None:
    """Both the authority's and the user's key are in the token; the certificate is a file."""
    public = public_file(user, label, tmp_path)
    certificate = certify(user, "ca", public, "-n", trusting.user)
    options = ("-o", f'IdentityFile="{public}"', "-o", f'CertificateFile="{certificate}"', "-o", "IdentitiesOnly=yes")
    if way == "ssh":
        check_welcome(trusting.login(*options, *provider(user), env=user.env))
        return
    with start_agent(user) as agent:
        add(agent, user)
        assert trusting.login(*by_agent(agent), env=user.env).returncode == 255
        check_welcome(trusting.login(*options, *by_agent(agent), env=user.env))
        check_silent(agent)


def test_certificate_for_somebody_else(user: rig.User, trusting: rig.Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    for names, status in (("nobody-here", 255), (f"nobody-here,{trusting.user}", 0)):
        certify(user, "ca", key.with_suffix(".pub"), "-n", names)
        assert trusting.login("-i", str(key)).returncode == status


def test_wrong_pin(new_user: type[rig.User], tabrmd: rig.Tabrmd, tmp_path: Path) -> None:
    user = new_user(tabrmd, tmp_path)
    user.init()
    user.askpass.now("654321")
    authority, subject = public_file(user, "ssh", tmp_path), make_key(tmp_path / "subject").with_suffix(".pub")
    done = user.run(KEYGEN, "-q", "-s", authority, "-D", user.module, "-I", "id", "-n", "me", subject)
    assert done.returncode != 0
    assert b"PIN incorrect" in done.stderr
    assert not (tmp_path / "subject-cert.pub").exists()
    assert tabrmd.swtpm.lockout_counter() == 1


def test_recipe(user: rig.User, tmp_path: Path) -> None:
    """No list of keys on either side: both trust the authority."""
    for name in ("id_ed25519", "ssh_host_ed25519_key", "bob"):
        make_key(tmp_path / name)
    known = tmp_path / "known_hosts"
    me = current_user()
    recipe = Recipe.of(user, "ssh-ca", {"alice": me, "/etc/ssh": tmp_path, "~/.ssh/known_hosts": known})
    for block in (0, 1, 3):
        recipe.run(block, tmp_path)
    host_key = tmp_path / "ssh_host_ed25519_key"
    settings = f'{recipe.text(2)}\nHostKey "{host_key}"\n'
    options = ("-i", str(tmp_path / "id_ed25519"), "-o", f"HostKeyAlias={HOST}", "-o", f'UserKnownHostsFile="{known}"')
    with rig.Sshd(settings, host_key.with_suffix(".pub").read_text()) as sshd:
        check_welcome(sshd.login(*options))
        stranger = [option.replace(HOST, "other.example.org") for option in options]
        refused = sshd.login(*stranger)
        assert "Host key verification failed" in refused.stderr
    with start_agent(user) as agent:
        user.env["SSH_AUTH_SOCK"] = str(agent.socket)
        recipe.run(4, tmp_path)
        del user.env["SSH_AUTH_SOCK"]
        check_silent(agent)
    assert (tmp_path / "bob-cert.pub").exists()
