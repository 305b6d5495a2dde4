"""What no PKCS#11 module can beat: the bare command on the same TPM."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from program import BenchError

if TYPE_CHECKING:
    from program import Host

    from rig import Swtpm

PASSWORD = b"limit"
SIGN = 0x15D
ECDSA, RSASSA, SHA256 = b"\x00\x18", b"\x00\x14", b"\x00\x0b"  # TPM_ALG_ID: TPM 2.0 part 2, 6.3
NO_TICKET = b"\x80\x24\x40\x00\x00\x07\x00\x00"
# kind: (persistent handle, tpm2-tools' name, scheme)
KEYS = {"p256": (0x81010256, "ecc256", ECDSA), "rsa": (0x81012048, "rsa2048", RSASSA)}


class Limit:
    """TPM2_Sign with a plain password, its bytes made beforehand and sent straight to the socket.

    Its keys are persistent, so that it takes none of the TPM's three slots from the modules beside it.
    """

    def __init__(self, swtpm: Swtpm) -> None:
        self._port = swtpm.port
        with tempfile.NamedTemporaryFile() as context:
            for handle, algorithm, _ in KEYS.values():
                attributes = "sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda"
                key = ("-C", "o", "-G", algorithm, "-a", attributes, "-p", PASSWORD.decode(), "-c", context.name)
                swtpm.tool("createprimary", *key)
                swtpm.tool("evictcontrol", "-C", "o", "-c", context.name, hex(handle))
                swtpm.flush()

    def sign(self, host: Host, kind: str, count: int) -> float:
        """Lower quartile of the times of `count` signatures in microseconds, sent by a process of the program."""
        handle, _, scheme = KEYS[kind]
        told = host.ask(f"raw {self._port} {_request(handle, scheme).hex()} {count}")
        if told["errors"]:
            raise BenchError(f"TPM2_Sign failed {told['errors']} times")
        return told["low"]


def _request(handle: int, scheme: bytes) -> bytes:
    session = b"\x40\x00\x00\x09" + bytes(3) + len(PASSWORD).to_bytes(2, "big") + PASSWORD  # TPM_RS_PW
    digest = (32).to_bytes(2, "big") + b"\x11" * 32
    body = handle.to_bytes(4, "big") + len(session).to_bytes(4, "big") + session + digest + scheme + SHA256 + NO_TICKET
    return b"\x80\x02" + (10 + len(body)).to_bytes(4, "big") + SIGN.to_bytes(4, "big") + body
