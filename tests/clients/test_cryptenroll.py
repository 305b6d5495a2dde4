"""systemd-cryptenroll by its recipe, on an image of a LUKS2 volume.

libcryptsetup's plugin of systemd unlocks the key slot; the volume itself would need a kernel with a device mapper.
"""

from __future__ import annotations

import pytest

import rig
from rig.errors import Errors
from rig.p11_kit import installed
from rig.program import said
from rig.recipe import Recipe

KEY, ENROL, TRY = range(3)  # blocks of the recipe
PASSPHRASE = "correct horse"
CRYPTSETUP = "/usr/sbin/cryptsetup"


class Volume:
    """An image with a passphrase, enrolled as the recipe says."""

    def __init__(self, user: rig.User) -> None:
        self.user = user
        self.errors = Errors(user)
        installed(user, {"systemd-cryptenroll": ["/usr/bin/systemd-cryptenroll"], "cryptsetup": [CRYPTSETUP]})
        user.create_token()
        self.image = user.directory / "volume"
        with self.image.open("wb") as file:
            file.truncate(20 << 20)
        cheap = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
        key = rig.write_secret(user.directory / "passphrase", PASSPHRASE)
        said([CRYPTSETUP, "luksFormat", "-q", "--type", "luks2", *cheap, self.image, key], user.env, user.directory)
        user.env |= {"PASSWORD": PASSPHRASE, "PIN": user.pin}  # systemd takes them from there
        self.recipe = Recipe.of(user, "cryptenroll", {"/dev/sdb1": self.image})

    def enrol(self) -> None:
        self.recipe.run(KEY)
        assert "New PKCS#11 token enrolled as key slot 1." in self.recipe.run(ENROL)

    def unlock(self, pin: str = "") -> None:
        self.recipe.run(TRY, pin=pin)


pytestmark = pytest.mark.usefixtures("p11_kit_settings")


@pytest.fixture(scope="module")
def volume(tpm: rig.Tabrmd, new_user: type[rig.User], tmp_path_factory: pytest.TempPathFactory) -> Volume:
    made = Volume(new_user(tpm, tmp_path_factory.mktemp("user")))
    made.enrol()
    return made


def test_unlock(volume: Volume) -> None:
    volume.unlock()
    assert volume.errors.lines() == []


def test_restart_of_the_tpm(volume: Volume, tpm: rig.Tabrmd) -> None:
    """As by a restart of the machine, after which the volume is unlocked."""
    tpm.swtpm.restart()
    tpm.restart()
    volume.unlock()
    assert volume.errors.lines() == []


def test_wrong_pin(volume: Volume, tpm: rig.Tabrmd) -> None:
    before = tpm.swtpm.lockout_counter()
    with pytest.raises(AssertionError, match="PIN for token 'p11tpm' is incorrect"):
        volume.unlock("654321")
    volume.unlock()
    if not isinstance(volume.user, rig.PeerUser):  # what only p11tpm promises
        assert tpm.swtpm.lockout_counter() == before + 1


def test_elliptic_curve(volume: Volume) -> None:
    """What the recipe says of systemd 252."""
    user = volume.user
    user.generate("p256", "ec")
    certificate = user.directory / "ec.pem"
    key = f"org.openssl.engine:pkcs11:pkcs11:object=ec;type=private;pin-source=file:{user.pin_file}"
    env = {**user.env, "PKCS11_MODULE_PATH": user.module}
    said(["/usr/bin/openssl", "req", "-x509", "-key", key, "-subj", "/CN=ec", "-out", certificate], env, user.directory)
    user.p11tpm("cert", "import", certificate)
    enrol = ["systemd-cryptenroll", "--pkcs11-token-uri=pkcs11:token=p11tpm;object=ec", volume.image]
    said(["/usr/bin/env", *enrol], user.env, user.directory, "RSA")


def test_pin_file_in_the_configuration(volume: Volume) -> None:
    """Nobody is asked."""
    user = volume.user
    if "P11TPM_CONF" not in user.env:
        pytest.skip("only p11tpm has this setting")
    settings = rig.write_secret(user.directory / "with-pin.conf", f"pin-file = {user.pin_file}\nlog = stderr\n")
    env = {**user.env, "P11TPM_CONF": str(settings)}
    test = ["cryptsetup", "open", "--test-passphrase", "--token-only", volume.image]
    told = said(["/usr/bin/env", *test], env, user.directory)
    assert told.splitlines() == [
        "Successfully logged into security token 'p11tpm' via protected authentication path.",
        "Successfully decrypted key with security token.",
    ]
