"""A signed image of a kernel: what the firmware measures of it, and systemd's signatures of that."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from p11tpm.tpm import policy, template

if TYPE_CHECKING:
    from rig.swtpm import Swtpm
    from rig.tabrmd import Tabrmd

MEASURE = Path("/lib/systemd/systemd-measure")
PHASES = (b"enter-initrd", b"leave-initrd", b"sysinit", b"ready")


class Image:
    """The sections of an image, and the key that signs what they make of PCR 11."""

    def __init__(
        self, directory: Path, kernel: bytes = b"kernel\n", key: rsa.RSAPrivateKey | None = None, bits: int = 2048
    ) -> None:
        self.key = key or rsa.generate_private_key(65537, bits)
        self.sections = {"linux": kernel, "osrel": b"NAME=test\n", "cmdline": b"quiet\n", "initrd": b"initrd\n"}
        self._directory = directory
        for name, content in self.sections.items():
            (directory / name).write_bytes(content)
        public = self.key.public_key()
        self.public_file = directory / "pcr-public.pem"
        self.public_file.write_bytes(
            public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        self._private_file = directory / "pcr-private.pem"
        self._private_file.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        numbers = public.public_numbers()
        self.public = template.authority(numbers.n, numbers.e)

    def _measured(self, command: str, *arguments: str) -> str:
        sections = [f"--{name}={self._directory / name}" for name in self.sections]
        argv = [str(MEASURE), command, "--bank=sha256", *sections, *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout

    def signatures(self, swtpm: Swtpm) -> str:
        """systemd's JSON for all phases; it needs a TPM for the arithmetic of policies."""
        keys = (f"--private-key={self._private_file}", f"--public-key={self.public_file}")
        try:
            return self._measured("sign", *keys, f"--tpm2-device={swtpm.tcti}")
        finally:
            swtpm.flush()

    def values(self) -> str:
        """What PCR 11 will be in each phase, as systemd prints it."""
        return self._measured("calculate")

    def entry(self, value: bytes, ref: str = "") -> dict[str, object]:
        """One entry of such a JSON, for a value of PCR 11; versions of systemd after 252 know `ref`."""
        good = policy.pcr(policy.START, {11: value})
        public = self.key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
        signature = self.key.sign(good + policy.policy_ref(ref), padding.PKCS1v15(), hashes.SHA256())
        named = {"ref": ref} if ref else {}
        return {
            "pcrs": [11],
            "pkfp": hashlib.sha256(public).hexdigest(),
            "pol": good.hex(),
            "sig": base64.b64encode(signature).decode(),
            **named,
        }

    def boot(self, swtpm: Swtpm, via: Tabrmd | None = None) -> None:
        """Measure what systemd-stub(7) does, and enter the first phase."""
        for name, content in self.sections.items():
            swtpm.extend(11, b"." + name.encode() + b"\0", via)
            swtpm.extend(11, content, via)
        self.enter(swtpm, PHASES[0], via)

    def enter(self, swtpm: Swtpm, phase: bytes, via: Tabrmd | None = None) -> None:
        """Measure that a phase of the boot was entered."""
        swtpm.extend(11, phase, via)
