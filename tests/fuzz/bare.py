"""A software TPM without anything in between: what tests ask and do behind the back of whoever uses it."""

from __future__ import annotations

import socket

from rig.proxy import HEADER, TPM_SECONDS, _read_message

NO_SESSIONS, SESSIONS = b"\x80\x01", b"\x80\x02"
FIRST = {"transient": 0x80000000, "session": 0x02000000, "saved session": 0x03000000, "persistent": 0x81000000}
OWNER, LOCKOUT = 0x40000001, 0x4000000A
_EMPTY = bytes.fromhex("00000009 40000009 0000 00 0000")  # the size of the area, TPM_RS_PW, an empty value


class BareTpm:
    """The TPM at a port of this machine."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, request: bytes) -> bytes:
        """Return the response to one request."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=TPM_SECONDS) as tpm:
            tpm.sendall(request)
            return _read_message(tpm)

    def _command(self, code: int, *numbers: int, area: bytes = b"", more: bytes = b"") -> bytes:
        body = b"".join(number.to_bytes(4, "big") for number in numbers) + area + more
        head = (SESSIONS if area else NO_SESSIONS) + (HEADER + len(body)).to_bytes(4, "big") + code.to_bytes(4, "big")
        return self.ask(head + body)

    def handles(self, kind: str) -> list[int]:
        """Return the handles of one kind that are in the TPM: GetCapability, TPM_CAP_HANDLES."""
        answer = self._command(0x17A, 1, FIRST[kind], 254)
        return [int.from_bytes(answer[at : at + 4], "big") for at in range(19, len(answer), 4)]

    def loaded(self) -> list[int]:
        """Return what programs have in the TPM: transient objects and sessions."""
        return [handle for kind in FIRST if kind != "persistent" for handle in self.handles(kind)]

    def flush(self, handle: int) -> None:
        """Flush an object or a session; it is all the same if there is none."""
        self._command(0x165, handle)

    def evict(self, handle: int) -> None:
        """Have the owner, who has an empty authorisation value, end the persistence of an object."""
        answer = self._command(0x120, OWNER, handle, area=_EMPTY, more=handle.to_bytes(4, "big"))
        assert answer[HEADER - 4 : HEADER] == bytes(4)

    def extend(self, pcr: int, digest: bytes) -> None:
        """Extend a PCR in the bank of SHA-256."""
        answer = self._command(0x182, pcr, area=_EMPTY, more=bytes.fromhex("00000001000b") + digest)
        assert answer[HEADER - 4 : HEADER] == bytes(4)

    def guesses(self) -> int:
        """Return the number of wrong authorisation values that the TPM counts: TPM_PT_LOCKOUT_COUNTER."""
        return int.from_bytes(self._command(0x17A, 6, 0x20E, 1)[-4:], "big")

    def forget_guesses(self) -> None:
        """Have the TPM begin to count anew: DictionaryAttackLockReset."""
        assert self._command(0x139, LOCKOUT, area=_EMPTY)[HEADER - 4 : HEADER] == bytes(4)
