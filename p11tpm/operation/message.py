"""What is digested, signed or verified: given whole, or in parts that are hashed as they come."""

from __future__ import annotations

from p11tpm import hashes
from p11tpm.ck import CKR
from p11tpm.error import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Context(Protocol):
        """A hash or an authentication code in the making, as hashlib has them."""

        def update(self, data: bytes, /) -> None:
            """Take the next bytes."""

        def digest(self) -> bytes:
            """Give what comes of them."""
            raise NotImplementedError


class Message:
    """Data as a mechanism takes them. `start` begins a hash or a code; None: the mechanism takes data as they are."""

    __slots__ = ("_context", "_start")

    def __init__(self, start: Callable[[], Context] | None) -> None:
        self._start = start
        self._context: Context | None = None

    @classmethod
    def hashed(cls, digest: str | None, new: Callable[[str], Context] = hashes.new) -> Message:
        """Give a message that a hash makes short, or with None one that stays as it is."""
        return cls(None if digest is None else lambda: new(digest))

    def update(self, part: bytes) -> None:
        """Take the next part; CKR_FUNCTION_NOT_SUPPORTED if the mechanism takes none."""
        if self._context is None:
            self._context = self._begin()
        self._context.update(part)

    def whole(self, data: bytes) -> bytes:
        """Give what comes of data in one part; CKR_OPERATION_NOT_INITIALIZED after parts, which end otherwise."""
        if self._context is not None:
            raise Error(CKR.OPERATION_NOT_INITIALIZED, "an operation of several parts ends with its C_...Final")
        if self._start is None:
            return data
        context = self._start()
        context.update(data)
        return context.digest()

    def finish(self) -> bytes:
        """Give what comes of the parts; CKR_FUNCTION_NOT_SUPPORTED if the mechanism takes none."""
        return (self._context or self._begin()).digest()

    def _begin(self) -> Context:
        if self._start is None:
            raise Error(CKR.FUNCTION_NOT_SUPPORTED, "this mechanism takes its data in one part")
        return self._start()
