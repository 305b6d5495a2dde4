"""Secrets that are kept, in memory of the C side: see csrc/secret.c."""

from __future__ import annotations

from p11tpm._native import ffi, lib

_DIGEST = 32  # bytes of an HMAC with SHA-256


class Locked:
    """A secret of up to 256 bytes that is neither swapped nor dumped where the machine can help it.

    It is gone when it is wiped, when nobody has it any more, and in a forked child.
    """

    __slots__ = ("_at", "_size")

    def __init__(self, value: bytes = b"") -> None:
        at = lib.secret_new()
        if at == ffi.NULL:
            raise MemoryError
        self._at = ffi.gc(at, lib.secret_free)
        self._size = 0
        self.set(value)

    def set(self, *parts: bytes | Locked) -> None:
        """Put other secrets, one after the other, in the place of this one; ValueError if they are too long."""
        self.wipe()
        for part in parts:
            size = len(part)
            if self._size + size > lib.SECRET_SIZE:
                raise ValueError("a secret is too long")
            ffi.memmove(self._at + self._size, part.view() if isinstance(part, Locked) else part, size)
            self._size += size

    def view(self) -> memoryview:
        """Return it where it is, for as long as somebody has this object."""
        return memoryview(ffi.buffer(self._at, self._size))

    def __len__(self) -> int:
        return self._size

    def wipe(self) -> None:
        """Overwrite it; it is empty then."""
        ffi.memmove(self._at, bytes(self._size), self._size)
        self._size = 0

    def __bool__(self) -> bool:
        """Return whether there is a secret: not after a wipe, nor in a child that was forked meanwhile."""
        return any(self.view())

    def __bytes__(self) -> bytes:
        """Return a copy, to be let go of soon."""
        return bytes(self.view())

    def mac(self, data: bytes) -> bytes:
        """Return the HMAC of some data under the secret, with SHA-256."""
        made = bytearray(_DIGEST)  # what ffi.new() makes is not wiped when it is freed
        lib.hash_mac(_DIGEST, self._at, self._size, data, len(data), ffi.from_buffer(made))
        return bytes(made)

    def mask(self, fixed: bytes, data: bytes) -> bytes:
        """Hide or uncover data by a mask that is made of the secret: see csrc/secret.c."""
        made = bytearray(data)
        lib.secret_mask(self._at, self._size, fixed, len(fixed), ffi.from_buffer(made), len(made))
        return bytes(made)
