"""A DNS server that answers every question with the lines of a file."""

from __future__ import annotations

import socketserver
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

HEADER = 12
TXT, INTERNET = b"\x00\x10", b"\x00\x01"


class Answerer(socketserver.BaseRequestHandler):
    """One question (RFC 1035, 4.1), answered by TXT records."""

    server: Resolver

    def handle(self) -> None:
        asked, reply = self.request
        end = asked.index(b"\0", HEADER) + 5  # the name, then type and class
        question, kind = asked[HEADER:end], asked[end - 4 : end - 2]
        texts = self.server.texts() if kind == TXT else []
        counts = (1, len(texts), 0, 0)
        answer = asked[:2] + b"\x84\x00" + b"".join(count.to_bytes(2, "big") for count in counts) + question
        for text in texts:  # the name of the question, by a pointer to it; no time to live
            data = bytes([len(text)]) + text
            answer += b"\xc0\x0c" + TXT + INTERNET + bytes(4) + len(data).to_bytes(2, "big") + data
        reply.sendto(answer, self.client_address)


class Resolver(socketserver.ThreadingUDPServer):
    """Listens on `address` ("127.0.0.1:port") from `with` to its end; the file may change all the time."""

    daemon_threads = True

    def __init__(self, file: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answerer)
        self._file = file
        self.address = f"127.0.0.1:{self.server_address[1]}"

    def texts(self) -> list[bytes]:
        return self._file.read_bytes().split() if self._file.exists() else []

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
