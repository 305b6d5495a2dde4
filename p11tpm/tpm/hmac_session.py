"""HMAC sessions: proof that both sides know an authorisation value, without sending it (TPM 2.0 Part 1, clause 17)."""

from __future__ import annotations

from posix import urandom

from p11tpm.ck import CKR
from p11tpm.crypto import hashes
from p11tpm.error import Error
from p11tpm.host.locked import Locked
from p11tpm.tpm import kdf
from p11tpm.tpm.codec import HASH_IDS, Reader, sized, u16, u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.tpm.command import Command

_DIGEST = "sha256"
_SHA256 = HASH_IDS[_DIGEST]
_XOR = u16(0x000A) + _SHA256  # the parameter encryption that every PC client TPM has and a hash is enough for
_NONCE_SIZE = 32
_TYPE_HMAC, _TYPE_POLICY = b"\x00", b"\x01"
_RH_NULL = u32(0x40000007)

# TPMA_SESSION: Part 2, clause 8.4
_CONTINUE, _DECRYPT, _ENCRYPT = 0x01, 0x20, 0x40


class TamperedError(Error):
    """A response that the TPM did not make, or that was changed on its way."""

    def __init__(self, command: str) -> None:
        super().__init__(
            CKR.DEVICE_ERROR,
            f"the response to TPM2_{command} was tampered with: somebody may be between this machine and its TPM",
        )


class Opening:
    """What the caller says to start a session, and what it keeps of that until the TPM answers."""

    __slots__ = ("lasting", "nonce", "policy", "salt", "secret", "srk_handle")

    def __init__(
        self,
        srk_handle: int = 0,
        salt: bytes = b"",
        secret: bytes = b"",
        *,
        policy: bool = False,
        lasting: bool = False,
    ) -> None:
        self.srk_handle = srk_handle
        self.salt = salt
        self.secret = secret  # the salt as only the TPM can read it
        self.policy = policy
        self.lasting = lasting
        self.nonce = urandom(_NONCE_SIZE)

    def handles(self) -> bytes:
        """Marshal tpmKey and bind."""
        return (u32(self.srk_handle) if self.secret else _RH_NULL) + _RH_NULL

    def parameters(self) -> bytes:
        """Marshal the parameters of StartAuthSession (Part 3, clause 11.1)."""
        kind = _TYPE_POLICY if self.policy else _TYPE_HMAC
        return sized(self.nonce) + sized(self.secret) + kind + _XOR + _SHA256


class HmacSession:
    """A session whose key the caller and the TPM share; `salted` with a storage root key, or not.

    A session without a salt protects a command only as far as the object's own authorisation value cannot be guessed.
    A policy session ends with the one command that it authorises, unless it is `lasting`: then its policy begins again.
    Any other goes on until it is dropped.
    """

    __slots__ = ("_attributes", "_key", "_nonce", "_nonce_tpm", "_once", "_value", "handle", "salted")

    authorises_only = False  # it also protects commands that need no authorisation

    def __init__(self, handle: int, opening: Opening, nonce_tpm: bytes) -> None:
        self.handle = handle
        self.salted = bool(opening.salt)
        self._once = opening.policy and not opening.lasting
        self._nonce_tpm = nonce_tpm
        self._nonce = b""
        self._attributes = 0
        self._value = Locked()
        key = kdf.kdfa(_DIGEST, opening.salt, b"ATH", nonce_tpm, opening.nonce, 256) if opening.salt else b""
        self._key = Locked(key)

    def wipe(self) -> None:
        """Overwrite the session's key."""
        self._key.wipe()
        self._value.wipe()

    def begin(self, auth: bytes | None, *, hides: bool, hidden: bool) -> None:
        """Begin a command: `auth` is the value of the object that this session authorises, empty for none.

        None: another session authorises the command, after which this one goes on even if it is a policy session.
        `hides`, `hidden`: this session is the one that encrypts the first parameter of the command, of the response.
        """
        # The TPM strips zero bytes from the end of an authorisation value: Part 1, clause 17.6.5
        self._value.set(self._key, (auth or b"").rstrip(b"\0"))
        self._nonce = urandom(_NONCE_SIZE)
        going_on = 0 if self._once and auth is not None else _CONTINUE
        self._attributes = going_on | (_DECRYPT if hides else 0) | (_ENCRYPT if hidden else 0)

    @property
    def once(self) -> bool:
        """Whether the command that was begun ends the session."""
        return not self._attributes & _CONTINUE

    def hide(self, parameters: bytes) -> bytes:
        """Encrypt a command's first parameter, but for its size, if this session is to (Part 1, clause 19.1)."""
        return self._first(parameters, self._nonce, self._nonce_tpm) if self._attributes & _DECRYPT else parameters

    @property
    def nonce_tpm(self) -> bytes:
        """The TPM's last nonce, which another session's HMAC covers if this one encrypts (Part 1, clause 17.6.5)."""
        return self._nonce_tpm

    def area(self, digest: bytes, other_nonce: bytes = b"") -> bytes:
        """Return the authorisation area for a command with this cpHash."""
        code = self._hmac(digest, self._nonce, self._nonce_tpm + other_nonce)
        return u32(self.handle) + sized(self._nonce) + bytes((self._attributes,)) + sized(code)

    def accept(self, command: Command, digest: bytes, area: Reader) -> None:
        """Check this session's part of a response with this rpHash; TamperedError if it is wrong."""
        nonce_tpm = area.buffer()
        attributes = area.number(1)
        code = area.buffer()
        expected = self._hmac(digest, nonce_tpm, self._nonce)
        if attributes != self._attributes or not hashes.compare_digest(code, expected):
            raise TamperedError(command.name)
        self._nonce_tpm = nonce_tpm

    def uncover(self, parameters: bytes) -> bytes:
        """Decrypt the first parameter of a response that was accepted, if the TPM was to encrypt it."""
        return self._first(parameters, self._nonce_tpm, self._nonce) if self._attributes & _ENCRYPT else parameters

    def _hmac(self, digest: bytes, newer: bytes, older: bytes) -> bytes:
        return self._value.mac(digest + newer + older + bytes((self._attributes,)))

    def _first(self, parameters: bytes, newer: bytes, older: bytes) -> bytes:
        reader = Reader(parameters)
        data = reader.buffer()
        return sized(self._value.mask(kdf.fixed(b"XOR", newer, older, len(data) * 8), data)) + reader.rest()
