"""Key material: what the maker of a key returns, and what the token's objects then write."""

from __future__ import annotations

from posix import urandom

from p11tpm.ck import CKA
from p11tpm.store.rows import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from p11tpm.attribute import Template
    from p11tpm.tpm import Blob


class KeyMaterial:
    """What a token keeps of a new object beside its attributes; objects other than keys have nothing of it.

    `uuid` is the identifier that the object gets, of which the authorisation value of a key in the TPM is derived.
    `secret`, `auth` and the blob in `tpm_public` and `tpm_private` are as in `Record`; nothing is encrypted yet.
    """

    __slots__ = ("auth", "secret", "tpm_private", "tpm_public", "uuid")

    def __init__(self, secret: bytes | None = None) -> None:
        self.uuid = urandom(16)
        self.secret = secret
        self.tpm_public = self.tpm_private = b""  # of a key that is not in the TPM
        self.auth: bytes | None = None

    def in_tpm(self, blob: Blob) -> Self:
        """Add what the TPM made of the key."""
        self.tpm_public, self.tpm_private = blob.public, blob.private
        return self

    def record(self, token: int, attributes: Template) -> Record:
        """Return the record of an object with these attributes, and with CKA_UNIQUE_ID."""
        attributes = {**attributes, CKA.UNIQUE_ID: self.uuid.hex().encode()}
        blob = (self.tpm_public or None, self.tpm_private or None)
        return Record(token, self.uuid, attributes, *blob, secret=self.secret, auth=self.auth)
