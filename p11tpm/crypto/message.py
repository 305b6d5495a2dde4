"""Data to digest, sign or verify: given whole, or in parts that are hashed as they come, or gathered."""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.crypto import hashes
from p11tpm.error import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from p11tpm.crypto.hashes import Context


_MOST = 2048  # bytes


class Gathered:
    """Parts of what a mechanism takes as it is: no longer than the largest key's modulus.

    The standard has such mechanisms take one part only, but hosts are used to tokens that are less strict. `most` is
    the length in bytes for mechanisms that take more.
    """

    __slots__ = ("_left", "_parts")

    def __init__(self, most: int = _MOST) -> None:
        self._left = most
        self._parts: list[bytes] = []

    def update(self, part: bytes) -> None:
        """Process the next part; CKR_DATA_LEN_RANGE if no key takes so much."""
        self._left -= len(part)
        if self._left < 0:
            raise Error(CKR.DATA_LEN_RANGE, "no key signs as many bytes without a hash")
        self._parts.append(part)

    def digest(self) -> bytes:
        """Return the parts as one."""
        return b"".join(self._parts)


class Message:
    """Data as a mechanism takes them. `start` begins a hash or a code; None: the mechanism takes data as they are."""

    __slots__ = ("_context", "_start")

    def __init__(self, start: Callable[[], Context] | None) -> None:
        self._start = start or Gathered
        self._context: Context | None = None

    @classmethod
    def hashed(cls, digest: str | None, new: Callable[[str], Context] = hashes.new) -> Message:
        """Return a message that a hash makes short, or with None one that stays as it is."""
        return cls(None if digest is None else lambda: new(digest))

    def update(self, part: bytes) -> None:
        """Process the next part; CKR_DATA_LEN_RANGE if it is too much for a mechanism without a hash."""
        if self._context is None:
            self._context = self._start()
        self._context.update(part)

    def whole(self, data: bytes) -> bytes:
        """Return the message of data in one part; CKR_OPERATION_NOT_INITIALIZED after parts, which end otherwise."""
        if self._context is not None:
            raise Error(CKR.OPERATION_NOT_INITIALIZED, "an operation of several parts ends with its C_...Final")
        if self._start is Gathered:
            return data
        context = self._start()
        context.update(data)
        return context.digest()

    def finish(self) -> bytes:
        """Return the result of the parts."""
        return (self._context or self._start()).digest()
