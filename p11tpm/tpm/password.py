"""A password instead of a session, for a TPM that is not on a bus and so has nobody to listen (Part 1, clause 17.4)."""

from __future__ import annotations

from p11tpm.tpm.codec import Reader, sized, u16, u32
from p11tpm.tpm.hmac_session import TamperedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.tpm.command import Command

_HANDLE = 0x40000009  # TPM_RS_PW
_CONTINUE = 1  # TPMA_SESSION: the TPM answers it whatever it was asked


class PasswordSession:
    """A session in the place of a `HmacSession`; it costs no command to begin with, and protects nothing on the way."""

    __slots__ = ("_password",)

    handle = _HANDLE
    once = False
    authorises_only = True
    nonce_tpm = b""

    def __init__(self) -> None:
        self._password = bytearray()

    def begin(self, auth: bytes | None, *, hides: bool, hidden: bool) -> None:  # noqa: ARG002 - nothing is hidden
        """Begin a command: `auth` is the value of the object that is authorised, empty for none."""
        self._password[:] = bytes(len(self._password))
        self._password = bytearray((auth or b"").rstrip(b"\0"))

    def hide(self, parameters: bytes) -> bytes:
        """Return the parameters as they are."""
        return parameters

    def area(self, digest: bytes, other_nonce: bytes = b"") -> bytes:  # noqa: ARG002 - nothing is signed
        """Return the authorisation area: no nonce, and the value itself."""
        area = u32(_HANDLE) + sized(b"") + bytes((_CONTINUE,)) + sized(self._password)
        self._password[:] = bytes(len(self._password))
        return area

    def accept(self, command: Command, digest: bytes, area: Reader) -> None:  # noqa: ARG002 - nothing is signed
        """Check the form of this session's part of a response; TamperedError if it is another session's."""
        if area.take(5) != sized(b"") + bytes((_CONTINUE,)) + u16(0):
            raise TamperedError(command.name)

    def uncover(self, parameters: bytes) -> bytes:
        """Return the parameters as they are."""
        return parameters
