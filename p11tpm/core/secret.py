"""What a login gives: the token's secret and the keys that are derived from it."""

from __future__ import annotations

from posix import urandom

from p11tpm.ck import CKR
from p11tpm.crypto import hashes
from p11tpm.error import Error
from p11tpm.host.imports import Late
from p11tpm.host.locked import Locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cryptography import exceptions
    from cryptography.hazmat.primitives.ciphers import aead

    from p11tpm.store import Record
else:
    exceptions = Late("cryptography.exceptions")
    aead = Late("cryptography.hazmat.primitives.ciphers.aead")

SIZE = 32


class Secret:
    """A token's secret, unsealed by the TPM at login; wiped at logout, at the end of the run and in a forked child."""

    def __init__(self, value: bytes) -> None:
        self._value = Locked(value)

    def wipe(self) -> None:
        """Overwrite the secret; nothing can be derived from it any more."""
        self._value.wipe()

    def _derive(self, purpose: bytes, context: bytes = b"") -> bytes:
        derived = self._value.mac(purpose + b"|" + context)
        if not self._value:  # another thread may have wiped it while it was in use
            raise Error(CKR.USER_NOT_LOGGED_IN, "the login ended meanwhile")
        return derived

    def auth(self, uuid: bytes) -> bytes:
        """Return the authorisation value of the key with this identifier."""
        return self._derive(b"key", uuid)

    def mac(self, record: Record) -> bytes:
        """Authenticate an object: its identifier, its attributes and the key that the TPM made for it."""
        parts = [record.uuid]
        for part in (record.tpm_public or b"", record.tpm_private or b""):
            parts += (len(part).to_bytes(8, "little"), part)
        for type_, value in sorted(record.attributes.items()):
            parts += (type_.to_bytes(8, "little"), len(value).to_bytes(8, "little"), value)
        if record.secret is not None:
            parts += (b"secret", len(record.secret).to_bytes(8, "little"), record.secret)
        return hashes.mac("sha256", self._derive(b"mac"), b"".join(parts))

    def verify(self, record: Record) -> None:
        """Refuse an object whose stored attributes are not those that this token wrote: CKR_DEVICE_ERROR."""
        if record.mac is None or not hashes.compare_digest(record.mac, self.mac(record)):
            raise Error(CKR.DEVICE_ERROR, f"object {record.id} was changed outside of p11tpm: restore the store")

    def encrypt(self, uuid: bytes, value: bytes) -> bytes:
        """Encrypt the value of a private data object or a secret key: AES-256-GCM, nonce first."""
        nonce = urandom(12)
        return nonce + aead.AESGCM(self._derive(b"data")).encrypt(nonce, value, uuid)

    def decrypt(self, uuid: bytes, value: bytes) -> bytes:
        """Decrypt what `encrypt` made for the same object; CKR_DEVICE_ERROR if it is not that."""
        try:
            return aead.AESGCM(self._derive(b"data")).decrypt(value[:12], value[12:], uuid)
        except (exceptions.InvalidTag, ValueError):
            raise Error(CKR.DEVICE_ERROR, "a value was changed outside of p11tpm: restore the store") from None
