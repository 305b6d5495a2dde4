"""GnuPG by its recipe: gnupg-pkcs11-scd is the card of gpg-agent, for OpenPGP and S/MIME."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

import rig
from rig.authority import Authority
from rig.errors import Errors
from rig.pinentry import Pinentry
from rig.program import openssl, said
from rig.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY, AGENT, CARD, OPENPGP, REQUEST, SMIME = range(6)  # blocks of the recipe
GPG = ("/usr/bin/gpg", "--batch", "--yes", "--trust-model", "always")
# nobody publishes here what was revoked
GPGSM = ("/usr/bin/gpgsm", "--batch", "--yes", "--disable-crl-checks")


class Mail:
    """A user with a key for mail, set up as the recipe says, in a home of their own."""

    def __init__(self, user: rig.User, home: Path) -> None:
        self.user = user
        self.home = home
        self.errors = Errors(user)
        self.pinentry = Pinentry(home, user.pin)
        user.create_token()
        user.env["HOME"] = str(home)
        self._recipe = Recipe.of(user, "gnupg", {"rsa3072": "rsa2048"})
        settings = home / ".gnupg"
        settings.mkdir(mode=0o700)
        self._recipe.run(KEY, home)
        mine = f"pinentry-program {self.pinentry.program}\n"
        (settings / "gpg-agent.conf").write_text(self._recipe.text(AGENT) + mine)
        (settings / "gnupg-pkcs11-scd.conf").write_text(self._recipe.text(CARD))
        (home / "text").write_text("what is signed and sealed\n")

    def set_up(self, block: int) -> None:
        self._recipe.run(block, self.home)

    def run(self, program: tuple[str, ...], *arguments: str, refused: str = "") -> str:
        return said([*program, *arguments], self.user.env, self.home, refused)

    def restart(self) -> None:
        """End gpg-agent, and the card with it."""
        said(["/usr/bin/gpgconf", "--kill", "all"], self.user.env, self.home)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.restart()


@contextmanager
def short_home() -> Iterator[Path]:
    """A home with a short name: there will be sockets in it."""
    home = Path(tempfile.mkdtemp(prefix="p11tpm-gnupg-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def mail(tpm: rig.Tabrmd, new_user: type[rig.User], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mail]:
    with short_home() as home, Mail(new_user(tpm, tmp_path_factory.mktemp("user")), home) as made:
        made.set_up(OPENPGP)
        yield made


def test_openpgp_signature(mail: Mail) -> None:
    mail.run(GPG, "--detach-sign", "text")
    assert "Good signature" in mail.run(GPG, "--verify", "text.sig", "text")


def test_openpgp_decryption(mail: Mail) -> None:
    mail.run(GPG, "--encrypt", "--recipient", "me@example.org", "--output", "sealed", "text")
    assert "what is signed and sealed" in mail.run(GPG, "--decrypt", "sealed")


def test_one_question_for_a_pin(mail: Mail) -> None:
    mail.restart()
    before = mail.pinentry.asked()
    for _ in range(3):
        mail.run(GPG, "--detach-sign", "text")
    assert mail.pinentry.asked() == before + 1
    assert mail.errors.lines() == []


def test_restart_of_the_tpm(mail: Mail, tpm: rig.Tabrmd) -> None:
    """And of tpm2-abrmd, while gpg-agent and its card run on; nobody is asked again."""
    mail.run(GPG, "--detach-sign", "text")
    before = mail.pinentry.asked()
    tpm.swtpm.restart()
    tpm.restart()
    mail.run(GPG, "--detach-sign", "text")
    assert mail.pinentry.asked() == before
    assert mail.errors.lines() == []


def test_wrong_pin(mail: Mail, tpm: rig.Tabrmd) -> None:
    """GnuPG asks three times; the TPM sees that PIN once."""
    mail.restart()
    before = tpm.swtpm.lockout_counter()
    mail.pinentry.now("654321")
    mail.run(GPG, "--detach-sign", "text", refused="Bad PIN")
    mail.pinentry.now(mail.user.pin)
    mail.run(GPG, "--detach-sign", "text")
    if not isinstance(mail.user, rig.PeerUser):  # what only p11tpm promises
        assert tpm.swtpm.lockout_counter() == before + 1


def test_smime(mail: Mail) -> None:
    """With another certificate for the same key; OpenPGP goes on working.

    gpgsm verifies, not OpenSSL: gpg-agent puts a zero before what any card signs if its first bit is set.
    """
    authority = Authority(mail.home)
    mail.set_up(REQUEST)
    authority.certify(mail.home / "mail.csr", "keyUsage=digitalSignature,keyEncipherment")
    (mail.home / "chain.pem").write_bytes(authority.certificate.read_bytes())
    fingerprint = openssl("x509", "-in", authority.certificate, "-noout", "-fingerprint", "-sha1").strip().split("=")[1]
    (mail.home / ".gnupg" / "trustlist.txt").write_text(f"{fingerprint} S\n")  # what the user answers when asked
    mail.restart()
    mail.set_up(SMIME)
    me = ("--local-user", "/CN=me@example.org")
    mail.run(GPGSM, *me, "--detach-sign", "--output", "text.p7s", "text")
    assert "Good signature" in mail.run(GPGSM, "--verify", "text.p7s", "text")
    mail.run(GPGSM, "--encrypt", "--recipient", "/CN=me@example.org", "--output", "sealed.p7m", "text")
    mail.run(GPGSM, "--decrypt", "--output", "opened", "sealed.p7m")
    assert (mail.home / "opened").read_bytes() == (mail.home / "text").read_bytes()
    mail.run(GPG, "--detach-sign", "text")
    assert mail.errors.lines() == []
