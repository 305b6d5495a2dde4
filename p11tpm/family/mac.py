"""Signatures by secret keys: codes that are made once more to be verified."""

from __future__ import annotations

from p11tpm.crypto.hashes import compare_digest
from p11tpm.crypto.message import Message
from p11tpm.given import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from p11tpm.crypto.hashes import Context


class Mac:
    """Signs and verifies with a secret key. `size`: bytes of the code that the host sees, the leftmost ones."""

    __slots__ = ("message", "size")

    def __init__(self, start: Callable[[], Context], params: Any, most: int, usual: int = 0) -> None:
        """Begin codes by `start`, of `most` bytes, of which the host sees as many as `params` or else `usual` says.

        Raises CKR_MECHANISM_PARAM_INVALID for a length that the code does not have.
        """
        self.size = getattr(params, "length", usual or most)
        if not 0 < self.size <= most:
            raise refused(f"the code has 1 to {most} bytes")
        self.message = Message(start)

    def sign(self, code: bytes) -> bytes:
        """Return as much of the code as the mechanism or its parameter says."""
        return code[: self.size]

    def check(self, code: bytes, signature: bytes) -> bool:
        """Return whether a code is the right one, in a time that does not tell how much of it is."""
        return compare_digest(self.sign(code), signature)
