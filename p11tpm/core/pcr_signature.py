"""Signatures of the values that PCRs have in a phase of the boot, in the JSON file that comes with a signed kernel.

systemd-measure(1) writes it, and systemd-stub(7) carries it from the kernel's image to ``/run/systemd``: an object
with a list for each bank of PCRs, whose entries have the numbers ``pcrs``, the key's fingerprint ``pkfp``, the policy
``pol`` and its signature ``sig``, and perhaps ``ref``, the text behind policyRef. Nothing in it is trusted: the TPM
checks the signatures, by the key that the token is bound to.
"""

from __future__ import annotations

import posix
from _stat import S_ISREG

from p11tpm.crypto import hashes
from p11tpm.error import StateError
from p11tpm.host.imports import Late
from p11tpm.tpm import state, template

TYPE_CHECKING = False
if TYPE_CHECKING:
    import binascii
    import json
    from typing import Any

    from p11tpm.crypto import der
    from p11tpm.tpm.state import Signed
else:
    binascii = Late("binascii")
    der = Late("p11tpm.crypto.der")
    json = Late("json")

PLACES = ("/etc/systemd", "/run/systemd", "/usr/lib/systemd")  # those of systemd-cryptenroll(1), in its order
_NAME = "tpm2-pcr-signature.json"
_LONGEST = 1 << 20  # bytes
_BANK = "sha256"


def fingerprint(public: bytes) -> bytes:
    """Return what the file calls an RSA key: the SHA-256 of its RSAPublicKey."""
    return hashes.digest("sha256", der.rsa_key(*template.rsa_numbers(public)).dump())


def find_in(places: tuple[str, ...], name: str) -> str:
    """Return the path of the first file of this name in the directories; of the first place if there is none."""
    paths = [f"{place}/{name}" for place in places]
    return next((path for path in paths if posix.access(path, posix.F_OK)), paths[0])


class PcrSignatures:
    """The file of signatures; `path` is empty for the first one that is where systemd puts it."""

    __slots__ = ("path",)

    def __init__(self, path: str = "") -> None:
        self.path = path or find_in(PLACES, _NAME)

    def of(self, signed: Signed, present: bytes) -> list[bytes]:
        """Return the signatures of a policy, the `present` values of the PCRs, by a key; StateError without one."""
        wanted = fingerprint(signed.public).hex()
        its = [one for one in self._entries() if _text(one, "pkfp") == wanted and _text(one, "ref") == signed.ref]
        found = [_signature(one) for one in its if _text(one, "pol") == present.hex()]
        if found:
            return found
        others = f"there are {len(its)} for other phases or kernels" if its else "it has none by that key"
        pcrs = state.written(signed.pcrs)
        raise StateError(f"no signature for the present PCR {pcrs} by key {wanted[:8]} in {self.path}: {others}")

    def _entries(self) -> list[dict[str, Any]]:
        try:
            entries = json.loads(self._content())[_BANK]
        except OSError as error:
            why = f"{self.path}: {error.strerror}: this kernel is not from a signed image, or 'pcr-signature' is wrong"
            raise StateError(why) from None
        except (ValueError, LookupError, TypeError, RecursionError):
            raise StateError(f"{self.path} has no signatures for the bank {_BANK}: it is not systemd's") from None
        return [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []

    def _content(self) -> bytes:
        flags = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY
        descriptor = posix.open(self.path, flags)
        try:
            status = posix.fstat(descriptor)
            if not S_ISREG(status.st_mode) or status.st_size > _LONGEST:
                raise ValueError("not such a file")
            content = b""
            while len(content) < _LONGEST and (part := posix.read(descriptor, _LONGEST - len(content))):
                content += part
            return content
        finally:
            posix.close(descriptor)


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name, "")
    return value if isinstance(value, str) else ""


def _signature(entry: dict[str, Any]) -> bytes:
    """Return the signature of an entry; empty, which the TPM refuses, for text that is not base64."""
    try:
        return binascii.a2b_base64(_text(entry, "sig"))[:1024]
    except ValueError:
        return b""
