"""nginx with its key in the token: `ssl_engine` makes libp11 OpenSSL's default, and the worker is forked after that.

One worker: the TPM has no resource manager here, since tpm2-abrmd's library does not survive a fork.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from clients.test_openssl import CONFIG, ENGINE
from rig.process import Process, free_port, wait_until
from rig.program import said

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLES = ("OPENSSL_CONF", "P11TPM_CONF", "P11TPM_STORE", "P11TPM_TCTI")  # nginx clears the rest
SETTINGS = """daemon off;
{user}
worker_processes 1;
pid {directory}/pid;
error_log stderr;
{env}
ssl_engine pkcs11;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c;
    uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
    ssl_session_cache off;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate {directory}/certificate;
        ssl_certificate_key "engine:pkcs11:pkcs11:object={label};type=private;pin-source=file:{pin_file}";
        return 200 "from the token";
    }}
}}
"""


class Nginx:
    """A server whose certificate is that of a key in the token."""

    def __init__(self, user: rig.User, tpm: rig.Swtpm, label: str, directory: Path) -> None:
        self.port = free_port()
        pin_file = rig.write_secret(directory / "pin", user.pin)  # libp11 takes a final newline for part of the PIN
        config = rig.write_secret(directory / "openssl.cnf", CONFIG.format(engine=ENGINE, module=user.module, more=""))
        env = {**user.env, "OPENSSL_CONF": str(config)}
        self.certificate = directory / "certificate"
        key = f"org.openssl.engine:pkcs11:pkcs11:object={label};type=private;pin-source=file:{pin_file}"
        names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        said(["/usr/bin/openssl", "req", "-x509", "-key", key, *names, "-out", self.certificate], env, directory)
        tpm.flush()  # libp11 ends without C_Finalize, and nobody but a resource manager takes away what that leaves
        settings = directory / "nginx.conf"
        as_root = "user root;" if os.getuid() == 0 else ""
        lines = "\n".join(f"env {name};" for name in VARIABLES if name in env)
        settings.write_text(
            SETTINGS.format(
                user=as_root, directory=directory, env=lines, port=self.port, label=label, pin_file=pin_file
            )
        )
        self.process = Process(["/usr/sbin/nginx", "-c", settings, "-p", directory], directory / "log", env)
        self.process.wait_listening(self.port)

    def get(self, version: ssl.TLSVersion) -> bytes:
        """Answer to one request on a connection of its own, whose handshake the key has signed."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.minimum_version = context.maximum_version = version
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        with plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: connection.recv(4096), b""))

    def gets(self, count: int = 24) -> None:
        """As many requests, eight at a time, by both versions of TLS in turn; all have to be answered."""
        versions = [(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)[index % 2] for index in range(count)]
        with ThreadPoolExecutor(8) as pool:
            assert all(answer.endswith(b"from the token") for answer in pool.map(self.get, versions))

    def workers(self) -> set[int]:
        return {
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        }


@pytest.fixture(params=["p256", "rsa2048"], ids=["ec", "rsa"])
def nginx(swtpm: rig.Swtpm, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Nginx]:
    user = rig.User(swtpm, tmp_path)
    user.init(algorithm=request.param, key_label="web")
    server = Nginx(user, swtpm, "web", tmp_path)
    yield server
    server.process.stop()


def test_a_worker_and_a_reload(nginx: Nginx) -> None:
    nginx.gets()
    before = nginx.workers()
    os.kill(nginx.process.pid, signal.SIGHUP)
    wait_until(lambda: len(nginx.workers()) == 1 and not nginx.workers() & before, "a new worker after a reload")
    nginx.gets()
    assert "p11tpm" not in nginx.process.output()
