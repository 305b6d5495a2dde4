"""One command at a time on the wire: marshalling, authorisation, and waiting for a TPM that is busy."""

from __future__ import annotations

from time import monotonic, sleep

from p11tpm.crypto import hashes
from p11tpm.error import TPM, Error, TpmError
from p11tpm.tpm.codec import Reader, u32
from p11tpm.tpm.command import NO_SESSIONS, SESSIONS, Command
from p11tpm.tpm.connection import Connection, LostError, SilentError
from p11tpm.tpm.hmac_session import TamperedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from p11tpm.tpm.hmac_session import HmacSession
    from p11tpm.tpm.password import PasswordSession

    Session: TypeAlias = HmacSession | PasswordSession

BUSY = frozenset({TPM.RETRY, TPM.TESTING, TPM.YIELDED, TPM.NV_RATE, TPM.NV_UNAVAILABLE})
_PATIENCE = 2.0  # seconds in all that a busy TPM is waited for

Handle = tuple[int, bytes]  # a handle and the Name of what it stands for
_EMPTY_PASSWORD = u32(0x40000009) + bytes(5)  # TPM_RS_PW, no nonce, no attributes, empty value


def plain_code(code: int) -> int:
    """Return the TPM's own code for one that a resource manager passed on in its layer (tpm2-tss: 11 and 12)."""
    return code & 0xFFFF if code >> 16 in {11, 12} and code & 0xF80 else code


class RefusedError(TpmError):
    """What the TPM said no to: `refused`."""

    def __init__(self, code: int, command: Command) -> None:
        super().__init__(code, command.name)
        self.refused = command
        if code == TPM.AUTH_FAIL and not command.guess:
            self.code = TPM.BAD_AUTH  # no PIN was tried: a storage root key without noDA, and a session that was spoilt


class Wire:
    """Sends single commands over a connection and gives the handle and the parameters of their responses."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def plain(self, command: Command, handles: bytes = b"", parameters: bytes = b"") -> tuple[int, bytes]:
        """Send a command without authorisation."""
        reader = self._send(command, command.request(handles, b"", parameters), NO_SESSIONS)
        return self._handle(command, reader), reader.rest()

    def with_empty_password(self, command: Command, handles: bytes, parameters: bytes) -> tuple[int, bytes]:
        """Send a command whose first handle has an empty authorisation value, which is not a secret."""
        reader = self._send(command, command.request(handles, _EMPTY_PASSWORD, parameters), SESSIONS)
        made = self._handle(command, reader)
        return made, reader.take(reader.number(4))

    def authorised(
        self,
        command: Command,
        session: Session,
        handles: tuple[Handle, ...],
        auth: bytes | None,
        parameters: bytes,
        cipher: HmacSession | None = None,
    ) -> tuple[int, bytes]:
        """Send a command in a session that authorises its first handle. TamperedError if the response is forged.

        With `auth` None there is nothing to authorise, and a policy session goes on after it.

        `cipher` encrypts instead of the session: for a caller that does not know the object's authorisation value, or
        to have the response prove that the TPM knows this session's key and nonces too.
        """
        if session.authorises_only and not handles:
            return self.plain(command, parameters=parameters)
        sessions = (session, cipher) if cipher else (session,)
        session.begin(auth, hides=command.hides and not cipher, hidden=command.hidden and not cipher)
        if cipher:  # one that neither authorises nor encrypts is refused: Part 2, clause 8.4
            cipher.begin(None, hides=command.hides, hidden=command.hidden or not command.hides)
        parameters = sessions[-1].hide(parameters)
        names = b"".join([name for _, name in handles])
        digest = hashes.digest("sha256", u32(command.code) + names + parameters)
        area = session.area(digest, cipher.nonce_tpm if cipher else b"") + (cipher.area(digest) if cipher else b"")
        request = command.request(b"".join([u32(handle) for handle, _ in handles]), area, parameters)
        reader = self._send(command, request, SESSIONS)
        try:
            return self._handle(command, reader), self._accept(command, sessions, reader)
        except ValueError:
            raise TamperedError(command.name) from None

    def _accept(self, command: Command, sessions: tuple[Session, ...], reader: Reader) -> bytes:
        """Check a response and give its parameters in clear."""
        parameters = reader.take(reader.number(4))
        digest = hashes.digest("sha256", u32(0) + u32(command.code) + parameters)
        for session in sessions:
            session.accept(command, digest, reader)
            if session.once:
                self.connection.ended(session.handle)
        reader.end()
        return sessions[-1].uncover(parameters)

    def _handle(self, command: Command, reader: Reader) -> int:
        return reader.number(4) if command.makes else 0

    def _send(self, command: Command, request: bytes, tag: int) -> Reader:
        """Send a request, again while the TPM is busy, and read the response's header."""
        waited, pause = 0.0, 0.002
        deadline = monotonic() + command.seconds
        while True:
            try:
                response = self.connection.transact(request, deadline - monotonic())
            except (LostError, TimeoutError, InterruptedError) as error:
                raise _unanswered(command, error) from None
            code = plain_code(int.from_bytes(response[6:10], "big"))
            if int.from_bytes(response[:2], "big") != (NO_SESSIONS if code else tag):
                raise TamperedError(command.name)  # an error never has sessions, a success as many as its command
            if not code:
                return Reader(response[10:])
            if code not in BUSY or waited >= _PATIENCE:
                raise RefusedError(code, command)
            sleep(pause)
            waited += pause
            pause = min(pause * 2, 0.25)


def _unanswered(command: Command, error: LostError | TimeoutError | InterruptedError) -> Error:
    """Return what it means that a command had no response."""
    if isinstance(error, LostError):
        if not command.guess:
            return error
        # The TPM may have counted a wrong PIN: trying it again would count it twice
        return Error(error.rv, f"{error.why}; whether the PIN was right is not known")
    timed_out = isinstance(error, TimeoutError)
    why = f"within {command.seconds} s" if timed_out else "before its user logged out or ended the run"
    return SilentError(command.name, why, guess=command.guess)
