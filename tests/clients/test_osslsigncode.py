"""osslsigncode by its recipe: a small program for Windows is signed, and osslsigncode verifies it without the token."""

from __future__ import annotations

import struct

import pytest

import rig
from rig.authority import Authority
from rig.errors import Errors
from rig.recipe import Recipe

REQUEST, IMPORT, SIGN = range(3)  # blocks of the recipe
ALGORITHMS = {"rsa": "rsa3072", "ec": "p256"}
EXTENSION = "keyUsage=digitalSignature\nextendedKeyUsage=codeSigning"


def program() -> bytes:
    """The smallest program that osslsigncode takes for one: a section with one instruction, `ret` (PE32+ of AMD64)."""
    dos = struct.pack("<2s58xI", b"MZ", 64)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, 1, 0, 0, 0, 240, 0x22)
    standard = struct.pack("<HBBIIIII", 0x20B, 14, 0, 512, 0, 0, 0x1000, 0x1000)
    places = struct.pack("<QII6HIIIIHH", 0x140000000, 0x1000, 512, 6, 0, 0, 0, 6, 0, 0, 0x2000, 512, 0, 3, 0)
    sizes = struct.pack("<QQQQII", 0x100000, 0x1000, 0x100000, 0x1000, 0, 16) + bytes(16 * 8)
    section = struct.pack("<8s6IHHI", b".text", 1, 0x1000, 512, 512, 0, 0, 0, 0, 0x60000020)
    header = dos + coff + standard + places + sizes + section
    return header.ljust(512, b"\0") + b"\xc3".ljust(512, b"\0")


class Publisher:
    """Somebody who signs setup.exe in a directory, as the recipe says."""

    def __init__(self, user: rig.User, algorithm: str) -> None:
        self.user = user
        self.errors = Errors(user)
        user.create_token()
        authority = Authority(user.directory)
        places = {"/etc/ssl/certs/ca-certificates.crt": authority.certificate, "rsa3072": algorithm}
        self._recipe = Recipe.of(user, "osslsigncode", places)
        self._recipe.run(REQUEST)
        authority.certify(user.directory / "code.csr", EXTENSION)
        self._recipe.run(IMPORT)
        (user.directory / "setup.exe").write_bytes(program())

    def sign(self) -> str:
        (self.user.directory / "setup-signed.exe").unlink(missing_ok=True)
        return self._recipe.run(SIGN)


@pytest.fixture(scope="module", params=ALGORITHMS)
def publisher(
    request: pytest.FixtureRequest,
    new_user: type[rig.User],
    tpm: rig.Tabrmd,
    tmp_path_factory: pytest.TempPathFactory,
) -> Publisher:
    return Publisher(new_user(tpm, tmp_path_factory.mktemp("publisher")), ALGORITHMS[request.param])


@pytest.mark.parametrize("end", ["", "\n"], ids=["PIN alone", "PIN and newline"])
def test_sign_and_verify(publisher: Publisher, end: str) -> None:
    rig.write_secret(publisher.user.pin_file, publisher.user.pin + end)
    told = publisher.sign()
    rig.write_secret(publisher.user.pin_file, publisher.user.pin)
    assert "Signature verification: ok" in told
    assert publisher.errors.lines() == []


def test_wrong_pin(publisher: Publisher, tpm: rig.Tabrmd) -> None:
    before = tpm.swtpm.lockout_counter()
    rig.write_secret(publisher.user.pin_file, "654321")
    with pytest.raises(AssertionError, match="Failed"):
        publisher.sign()
    rig.write_secret(publisher.user.pin_file, publisher.user.pin)
    publisher.sign()
    if not isinstance(publisher.user, rig.PeerUser):  # what only p11tpm promises
        assert tpm.swtpm.lockout_counter() == before + 1
