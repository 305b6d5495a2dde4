"""The keys of a token that stay in the TPM: what the store remembers of them, and what is done about them.

The store notes where a key is to be before the TPM leaves it there, and forgets it after the TPM has let it go: an
interruption leaves no key in the TPM that the store does not know of, and so whoever deletes the key evicts it. One
that the store believes to be there and is not is loaded when it is used. In the TPM a key is found by its Name.
"""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.tpm import Blob, resident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.store import Record, Store
    from p11tpm.tpm import Srk, Tpm


class Residents:
    """The resident keys of one token."""

    __slots__ = ("_store", "_token", "_tpm")

    def __init__(self, store: Store, tpm: Tpm, token: int) -> None:
        self._store = store
        self._tpm = tpm
        self._token = token

    def all(self) -> list[Record]:
        """Return the keys that the store has as resident, oldest first, whether anybody is logged in or not."""
        return self._store.residents(self._token)

    def is_there(self, record: Record) -> bool:
        """Return whether the TPM has a key where the store says."""
        return resident.is_at(self._tpm, record.tpm_public or b"", record.resident)

    def add(self, record: Record, owner_auth: bytes) -> int:
        """Leave a key in the TPM and give its persistent handle; see `resident.keep` for the errors."""
        if record.id <= 0 or record.tpm_public is None or record.tpm_private is None:
            raise Error(CKR.ACTION_PROHIBITED, "only a key of the store and of the TPM can be resident")

        def note(handle: int) -> None:
            if not self._store.set_resident(record, handle):
                raise Error(CKR.OBJECT_HANDLE_INVALID, "the key was deleted meanwhile")

        self._require_writable()
        handle = resident.keep(self._tpm, Blob(record.tpm_public, record.tpm_private), owner_auth, note)
        try:
            note(handle)
        except Error:
            resident.evict(self._tpm, record.tpm_public, owner_auth)
            raise
        return handle

    def remove(self, record: Record, owner_auth: bytes) -> bool:
        """Remove a key from the TPM, also one that the store does not know to be there; False if it was not."""
        self._require_writable()
        was = self._evict(record, owner_auth)
        self._store.set_resident(record, 0)
        return was

    def strays(self, srks: list[Srk]) -> dict[int, Record | None]:
        """Return the handles of keys below these storage root keys that the store does not record.

        With each is the key, or None if the store has no such key.
        """
        found: dict[int, Record | None] = {}
        for handle, public in resident.below(self._tpm, srks).items():
            keys = self._store.keys_of(public)
            if handle not in {key.resident for key in keys}:
                found[handle] = keys[0] if keys else None
        return found

    def evict(self, records: list[Record]) -> None:
        """Evict keys that are about to be deleted from the TPM; the store stays as it is.

        CKR_ACTION_PROHIBITED if the TPM's owner has to agree: then nothing was changed.
        """
        self._require_writable()
        for record in records:
            self._evict(record, b"")

    def _evict(self, record: Record, owner_auth: bytes) -> bool:
        return resident.evict(self._tpm, record.tpm_public or b"", owner_auth)

    def _require_writable(self) -> None:
        if not self._store.writable:
            raise Error(CKR.TOKEN_WRITE_PROTECTED, "the store cannot be written to")

    def lost(self, record: Record) -> None:
        """Note that a key was not where it should be, so that whatever is there is left alone from now on.

        It may count what it takes for a wrong PIN. Where the store cannot be written to, only this process knows.
        """
        was, record.resident = record.resident, 0
        if self._store.writable:
            try:  # noqa: SIM105 - contextlib costs milliseconds
                self._store.set_resident(record, 0, was)
            except Error:
                pass  # the key was used all the same
