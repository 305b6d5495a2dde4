"""The TPM's structures: numbers and sized buffers on the wire, and the values that the layers above keep.

TPM 2.0 Part 2; all numbers are big-endian (Part 1, clause 11.2).
"""

from __future__ import annotations

from p11tpm import algorithm
from p11tpm.ck import CKR
from p11tpm.crypto import hashes
from p11tpm.error import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any

HASHES = {hash_.tpm: name for name, hash_ in algorithm.HASHES.items() if hash_.tpm}  # TPM_ALG_ID: the name


def u16(number: int) -> bytes:
    """Marshal a UINT16."""
    return number.to_bytes(2, "big")


def u32(number: int) -> bytes:
    """Marshal a UINT32."""
    return number.to_bytes(4, "big")


def sized(data: bytes | bytearray) -> bytes:
    """Marshal a TPM2B: the size in two bytes, then the bytes."""
    return u16(len(data)) + data


HASH_IDS = {name: u16(number) for number, name in HASHES.items()}  # the same, marshalled


class Reader:
    """Takes a marshalled structure apart from its beginning; ValueError when it ends too early."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise ValueError("a structure of the TPM ends too early")
        self._at += size
        return part

    def number(self, size: int) -> int:
        """Return the next number of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def buffer(self) -> bytes:
        """Return the contents of the next TPM2B."""
        return self.take(self.number(2))

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        """Refuse with ValueError if something is left."""
        if self._at != len(self._data):
            raise ValueError("a structure of the TPM is followed by something else")


class UnnamedError(Error, ValueError):
    """A TPMT_PUBLIC whose Name cannot be said: it is damaged, or uses a hash that is not known here."""

    def __init__(self) -> None:
        super().__init__(CKR.DEVICE_ERROR, "an object's name algorithm is not known: restore the store")


def name_of(public: bytes) -> bytes:
    """Return the Name of an object: its name algorithm and the digest of its TPMT_PUBLIC (Part 1, clause 16)."""
    digest = HASHES.get(int.from_bytes(public[2:4], "big"))
    if digest is None:
        raise UnnamedError
    return public[2:4] + hashes.digest(digest, public)


class Blob:
    """An object outside of the TPM: `public` is a TPMT_PUBLIC, `private` the contents of a TPM2B_PRIVATE."""

    __slots__ = ("private", "public")

    def __init__(self, public: bytes, private: bytes) -> None:
        self.public = public
        self.private = private


class Srk:
    """The storage root key that wraps a token's objects: a persistent `handle`, or 0 for one made when needed."""

    __slots__ = ("handle", "name", "public")

    def __init__(self, handle: int, public: bytes) -> None:
        self.handle = handle
        self.public = public
        self.name = name_of(public)


class Key(Blob):
    """A key that can be loaded below the SRK. `id` tells keys apart; `auth` is its authorisation value.

    `resident` is where the TPM keeps it, a persistent handle; 0 if nowhere. `condition` is what its policy asks for, a
    `bound.Condition`; None for a key without.
    """

    __slots__ = ("auth", "condition", "id", "resident")

    def __init__(
        self,
        id_: Hashable,
        public: bytes,
        private: bytes,
        auth: bytes,
        resident: int = 0,
        condition: Any = None,
    ) -> None:
        super().__init__(public, private)
        self.condition = condition
        self.id = id_
        self.auth = auth
        self.resident = resident
