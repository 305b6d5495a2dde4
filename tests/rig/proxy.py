"""The wire between a TPM and its clients, made visible."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from rig.process import Stoppable, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from rig.swtpm import Swtpm

# TPM 2.0 part 2, 6.5.2: the commands that tests speak of
NAMES = {
    0x120: "EvictControl",
    0x126: "Clear",
    0x131: "CreatePrimary",
    0x139: "DictionaryAttackLockReset",
    0x13E: "SequenceComplete",
    0x144: "Startup",
    0x146: "StirRandom",
    0x150: "ObjectChangeAuth",
    0x151: "PolicySecret",
    0x153: "Create",
    0x154: "ECDH_ZGen",
    0x155: "HMAC",
    0x156: "Import",
    0x157: "Load",
    0x159: "RSA_Decrypt",
    0x15B: "HMAC_Start",
    0x15C: "SequenceUpdate",
    0x15D: "Sign",
    0x15E: "Unseal",
    0x161: "ContextLoad",
    0x162: "ContextSave",
    0x165: "FlushContext",
    0x167: "LoadExternal",
    0x16A: "PolicyAuthorize",
    0x16B: "PolicyAuthValue",
    0x16C: "PolicyCommandCode",
    0x16D: "PolicyCounterTimer",
    0x171: "PolicyOR",
    0x173: "ReadPublic",
    0x176: "StartAuthSession",
    0x177: "VerifySignature",
    0x17A: "GetCapability",
    0x17B: "GetRandom",
    0x17E: "PCR_Read",
    0x17F: "PolicyPCR",
    0x180: "PolicyRestart",
    0x186: "HashSequenceStart",
    0x189: "PolicyGetDigest",
    0x18A: "TestParms",
    0x18C: "PolicyPassword",
    0x193: "EncryptDecrypt2",
    0x191: "CreateLoaded",
}
TPM_SECONDS = 300  # for one command: an RSA key, on a busy machine
HEADER = 10  # tag (2), size (4), command or response code (4): TPM 2.0 part 1, 18.2


class Command:
    """One command as it went over the wire: `code`, `request` and `response` (bytes), `rc` (response code)."""

    __slots__ = ("code", "rc", "request", "response")

    def __init__(self, request: bytes, response: bytes) -> None:
        self.code = int.from_bytes(request[6:10], "big")
        self.request = request
        self.response = response
        self.rc = int.from_bytes(response[6:10], "big")

    @property
    def name(self) -> str:
        return NAMES.get(self.code, f"{self.code:#x}")

    def __repr__(self) -> str:
        return f"{self.name}={self.rc:#x}" if self.rc else self.name


class CountingProxy(Stoppable):
    """Sits between clients and a Swtpm and writes down each command.

    `commands` is the list so far. `change`, if set, gets (request, response) and returns the response that the
    client sees; `answer` gets the request and returns a response in the TPM's stead, or None to ask the TPM. What
    either raises as ConnectionError cuts the connection. Commands of several clients are taken one after the other.
    """

    def __init__(self, swtpm: Swtpm) -> None:
        self.swtpm = swtpm
        self.env = swtpm.env
        self.commands: list[Command] = []
        self.change: Callable[[bytes, bytes], bytes] | None = None
        self.answer: Callable[[bytes], bytes | None] | None = None
        self._one = threading.Lock()
        self._listeners: list[socket.socket] = []
        self.port = self._listen()

    @property
    def tcti(self) -> str:
        return f"swtpm:host=127.0.0.1,port={self.port}"

    @property
    def names(self) -> list[str]:
        """Names of the commands so far, in order."""
        return [command.name for command in self.commands]

    def clear(self) -> None:
        self.commands.clear()

    def _listen(self) -> int:
        for _ in range(20):
            port = free_port(2)
            with contextlib.suppress(OSError):
                self._listeners = [socket.create_server(("127.0.0.1", port + extra), backlog=64) for extra in (0, 1)]
                break
        for listener, serve in zip(self._listeners, (self._serve_data, self._serve_control), strict=True):
            threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()
        return port

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        listener.settimeout(None)
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed by stop()
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.settimeout(None)  # it may be silent as long as it likes
            threading.Thread(target=self._guard, args=(client, serve), daemon=True).start()

    def _guard(self, client: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        with client, contextlib.suppress(OSError):
            serve(client)

    def _serve_data(self, client: socket.socket) -> None:
        """Bare commands and responses, as long as their headers say."""
        while request := _read_message(client):
            with self._one:
                response = self._ask(request)
                client.sendall(response)

    def _ask(self, request: bytes) -> bytes:
        response = self.answer(request) if self.answer else None
        if response is None:
            with socket.create_connection(("127.0.0.1", self.swtpm.port), timeout=TPM_SECONDS) as tpm:
                tpm.sendall(request)
                response = _read_message(tpm)
        if self.change:
            response = self.change(request, response)
        self.commands.append(Command(request, response))
        return response

    def _serve_control(self, client: socket.socket) -> None:
        """Swtpm's control channel, passed on as it is."""
        with socket.create_connection(("127.0.0.1", self.swtpm.port + 1), timeout=TPM_SECONDS) as tpm:
            back = threading.Thread(target=_copy, args=(tpm, client), daemon=True)
            back.start()
            _copy(client, tpm)
            back.join(60)

    def stop(self) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() alone does not
            listener.close()


def _read_message(connection: socket.socket) -> bytes:
    """One command or response; empty at the end of the connection."""
    header = _read_exactly(connection, HEADER)
    return header and header + _read_exactly(connection, int.from_bytes(header[2:6], "big") - HEADER)


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := connection.recv(size - len(data))):
        data += part
    if data and len(data) < size:
        raise ConnectionError(f"{len(data)} bytes of {size}")
    return data


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(4096):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
