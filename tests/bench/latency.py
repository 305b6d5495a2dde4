"""A software TPM that takes as long as one of hardware."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rig import CountingProxy

# Milliseconds of an Infineon SLB9672 on SPI at 43 MHz. "measured" are those of docs/benchmarks.md in
# github.com/wolfSSL/wolfTPM (659b16c): ECDSA P-256 sign 35.6, RSA-2048 private 77.0, with OAEP 87.7, ECDHE agree 65.9,
# EC key generation 136, and 32 bytes of random 1.4. The rest are estimates: Load between a signature and a key
# agreement, because it decrypts and checks a private part; what needs no key a few milliseconds for the bus.
SIGN_EC, SIGN_RSA = 35.6, 77.0  # measured
AGREE = 65.9  # measured: the salt of a session under an ECC key is one
DECRYPT_SALT = 87.7  # measured: the salt of a session under an RSA key
SHORT = 3.0
COMMANDS = {
    0x131: 140.0,  # CreatePrimary
    0x153: 136.0,  # Create, of an EC key: measured
    0x154: AGREE,  # ECDH_ZGen
    0x157: 42.0,  # Load
    0x159: SIGN_RSA,  # RSA_Decrypt
    0x15E: 14.0,  # Unseal
    0x167: 10.0,  # LoadExternal
    0x17B: 1.4,  # GetRandom: measured
    0x191: 140.0,  # CreateLoaded
}
SIGN, START_AUTH_SESSION, FLUSH_CONTEXT = 0x15D, 0x176, 0x165
MAKE_OBJECT = {0x131, 0x157, 0x161, 0x167, 0x191}  # CreatePrimary, Load, ContextLoad, LoadExternal, CreateLoaded
ECDSA = 0x18  # TPM_ALG_ECDSA: TPM 2.0 part 2, 6.3
RH_NULL = 0x40000007
TRANSIENT, SESSIONS = 0x80, {0x02, 0x03}  # first byte of a handle: part 2, 7.2
CONTINUE_SESSION = 1  # part 2, 8.4

# Linux' resource manager (drivers/char/tpm/tpm2-space.c): before each command it loads all contexts of the connection,
# afterwards it saves them all. Estimates for one load or one save, in milliseconds.
CONTEXT_OF_OBJECT, CONTEXT_OF_SESSION = 15.0, 8.0


class Latency:
    """Makes the commands of a proxy last as long as on a discrete TPM, with or without Linux' resource manager."""

    def __init__(self, proxy: CountingProxy, *, managed: bool) -> None:
        self._managed = managed
        self._resident: set[int] = set()
        self._begun = 0.0
        self._before = 0.0
        proxy.answer = self._begin
        proxy.change = self._end

    def reset(self) -> None:
        """Forget what was loaded: the next connection is another process's."""
        self._resident.clear()

    def _begin(self, _: bytes) -> None:
        self._begun = time.monotonic()
        self._before = self._contexts()

    def _end(self, request: bytes, response: bytes) -> bytes:
        if not any(response[6:10]):
            self._note(request, response)
        milliseconds = command_time(request) + self._before + self._contexts()
        time.sleep(max(0.0, self._begun + milliseconds / 1000 - time.monotonic()))
        return response

    def _contexts(self) -> float:
        """Milliseconds to load, or to save, everything that is resident."""
        if not self._managed:
            return 0.0
        objects = sum(handle >> 24 == TRANSIENT for handle in self._resident)
        return objects * CONTEXT_OF_OBJECT + (len(self._resident) - objects) * CONTEXT_OF_SESSION

    def _note(self, request: bytes, response: bytes) -> None:
        """Follow what comes into the TPM and what leaves it."""
        code = _number(request, 6)
        if code in MAKE_OBJECT or code == START_AUTH_SESSION:
            self._resident.add(_number(response, 10))
        elif code == FLUSH_CONTEXT:
            self._resident.discard(_number(request, 10))
        elif code == SIGN or code in COMMANDS:
            self._resident -= _ended(request)


def command_time(request: bytes) -> float:
    """Milliseconds of a command on the chip alone."""
    code = _number(request, 6)
    if code == SIGN:
        return SIGN_EC if _scheme(request) == ECDSA else SIGN_RSA
    if code == START_AUTH_SESSION:
        return _salt_time(request)
    return COMMANDS.get(code, SHORT)


def _number(data: bytes, at: int, size: int = 4) -> int:
    return int.from_bytes(data[at : at + size], "big")


def _scheme(request: bytes) -> int:
    """TPMT_SIG_SCHEME of TPM2_Sign, behind handle, authorisation and digest (part 3, 20.2)."""
    digest = 18 + _number(request, 14)
    return _number(request, digest + 2 + _number(request, digest, 2), 2)


def _salt_time(request: bytes) -> float:
    """TPM2_StartAuthSession decrypts a salt if it is given a key (part 3, 11.1)."""
    if _number(request, 10) == RH_NULL:
        return SHORT
    salt = 18 + 2 + _number(request, 18, 2)
    return DECRYPT_SALT if _number(request, salt, 2) >= 256 else AGREE


def _ended(request: bytes) -> set[int]:
    """Sessions that a command ends because it does not ask for their continuation (part 1, 17.8)."""
    if request[:2] != b"\x80\x02":
        return set()
    at = 18 if _number(request, 6) != 0x17B else 14  # GetRandom has no handle, the others here have one
    end, ended = at + _number(request, at - 4), set()
    while at < end:
        handle = _number(request, at)
        attributes = at + 6 + _number(request, at + 4, 2)
        if handle >> 24 in SESSIONS and not request[attributes] & CONTINUE_SESSION:
            ended.add(handle)
        at = attributes + 3 + _number(request, attributes + 1, 2)
    return ended
