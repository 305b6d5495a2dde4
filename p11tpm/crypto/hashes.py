"""Hashes and HMAC for what every host needs: those of CPython itself.

hashlib would start libcrypto, which costs every host two milliseconds, and whose locks a fork may leave taken in the
child: its functions let go of the GIL while they hold them. hashlib has what a Python was built without.
"""

from __future__ import annotations

import sys
from _operator import _compare_digest as compare_digest

from p11tpm.algorithm import HASHES
from p11tpm.host.imports import import_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["compare_digest", "digest", "mac", "new"]

_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))

_found: dict[str, Callable[..., Any]] = {}


def _find(name: str) -> Callable[..., Any]:
    with import_lock:
        for module in HASHES[name].modules:
            if module not in sys.stdlib_module_names:  # the search for it would go through all paths
                continue
            try:
                return getattr(__import__(module), name)  # type: ignore[no-any-return]
            except ImportError:
                continue
        import hashlib

        return lambda data=b"": hashlib.new(name, data, usedforsecurity=False)


def new(name: str, data: bytes = b"") -> Any:
    """Begin a hash, by the name that hashlib knows: an object as hashlib's are."""
    make = _found.get(name)
    if make is None:
        make = _found[name] = _find(name)
    return make(data)


def digest(name: str, data: bytes) -> bytes:
    """Return the hash of some data."""
    hashed: bytes = new(name, data).digest()
    return hashed


def mac(name: str, key: bytes | bytearray, data: bytes) -> bytes:
    """Return the HMAC of some data (RFC 2104)."""
    begun = new(name)
    size = begun.block_size
    block = bytes(key if len(key) <= size else digest(name, bytes(key))).ljust(size, b"\0")
    return digest(name, block.translate(_OUTER) + digest(name, block.translate(_INNER) + data))
