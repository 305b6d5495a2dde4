"""A mechanism as a host gives it, and the reading of its parameter, which p11tpm/parameter.py decodes."""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.error import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def refused(why: str) -> Error:
    """Return the error of a parameter that cannot be used."""
    return Error(CKR.MECHANISM_PARAM_INVALID, why)


class Given:
    """A mechanism as the host gives it: its `type`, and where its parameter is, of `length` bytes.

    The parameter, and what that points to, is read only when the mechanism is known to take one: hosts leave the
    address and the length unset otherwise. `fetch(address, length)` reads; it must happen before the call returns.
    """

    __slots__ = ("_address", "_fetch", "length", "type")

    def __init__(
        self, type_: int, address: int = 0, length: int = 0, fetch: Callable[[int, int], bytes] | None = None
    ) -> None:
        self.type = type_
        self.length = length
        self._address = address
        self._fetch = fetch

    def numbers(self, count: int, name: str) -> list[int]:
        """Read a structure of `count` members of 8 bytes; CKR_MECHANISM_PARAM_INVALID if it is not that long."""
        return split(self.exactly(8 * count, f"a {name}"))

    def exactly(self, length: int, name: str) -> bytes:
        """Read a parameter of `length` bytes; CKR_MECHANISM_PARAM_INVALID if it is NULL or not that long."""
        if self.length != length:
            raise refused(f"the mechanism needs {name} of {length} bytes")
        return self.pointed(self._address, length)

    def up_to(self, longest: int) -> bytes:
        """Read a parameter of at most `longest` bytes; NULL is none at all, whatever the length."""
        if not self._address:
            return b""
        if self.length > longest:
            raise refused(f"the mechanism takes at most {longest} bytes")
        return self.pointed(self._address, self.length)

    def pointed(self, address: int, length: int) -> bytes:
        """Read what a member points to; CKR_MECHANISM_PARAM_INVALID for NULL with a length, or an absurd length."""
        if not length:
            return b""
        if not address or self._fetch is None:
            raise refused("the mechanism's parameter, or a pointer in it, is NULL")
        return self._fetch(address, length)


def split(members: bytes) -> list[int]:
    """Return the members of a structure, each of 8 bytes."""
    return [int.from_bytes(members[at : at + 8], "little") for at in range(0, len(members), 8)]
