"""Hashes and HMAC for what every host needs: those of csrc/hash.c.

hashlib would start libcrypto, which costs every host two milliseconds, and whose locks a fork may leave taken in the
child: its functions let go of the GIL while they hold them. hashlib has what few hosts need.
"""

from __future__ import annotations

from _operator import _compare_digest as compare_digest

from p11tpm._native import ffi, lib
from p11tpm.algorithm import HASHES
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    import hashlib
    import hmac
    from collections.abc import Callable
    from typing import Any, Protocol

    class Context(Protocol):
        """A hash or an authentication code in the making, as hashlib has them."""

        def update(self, data: bytes, /) -> None:
            """Process the next bytes."""

        def digest(self) -> bytes:
            """Return the result."""
else:
    hashlib = Late("hashlib")
    hmac = Late("hmac")

__all__ = ["compare_digest", "digest", "mac", "new"]


class _Native:
    """A hash in the making, whose digest has so many bytes."""

    __slots__ = ("_at", "_size")

    def __init__(self, size: int) -> None:
        at = lib.hash_new(size)
        if at == ffi.NULL:
            raise MemoryError
        self._at = ffi.gc(at, lib.hash_free)
        self._size = size

    def update(self, data: bytes) -> None:
        """Process the next bytes."""
        lib.hash_add(self._at, data, len(data))

    def digest(self) -> bytes:
        """Return the result."""
        made = bytearray(self._size)
        lib.hash_result(self._at, ffi.from_buffer(made))
        return bytes(made)


def new(name: str) -> Context:
    """Begin a hash, by the name that hashlib knows."""
    row = HASHES[name]
    return _Native(row.size) if row.native else _of_hashlib(name)()


def _of_hashlib(name: str) -> Callable[..., Any]:
    return lambda data=b"": hashlib.new(name, data, usedforsecurity=False)


def digest(name: str, data: bytes) -> bytes:
    """Return the hash of some data."""
    row = HASHES[name]
    if not row.native:
        hashed: bytes = _of_hashlib(name)(data).digest()
        return hashed
    made = bytearray(row.size)
    lib.hash_digest(row.size, data, len(data), ffi.from_buffer(made))
    return bytes(made)


def mac(name: str, key: bytes | bytearray, data: bytes) -> bytes:
    """Return the HMAC of some data (RFC 2104)."""
    row = HASHES[name]
    if not row.native:
        return hmac.new(key, data, _of_hashlib(name)).digest()
    made = bytearray(row.size)
    lib.hash_mac(row.size, ffi.from_buffer(key), len(key), data, len(data), ffi.from_buffer(made))
    return bytes(made)
