"""nginx as Debian sets it up, and as the recipe adds to that, with its files below a directory."""

from __future__ import annotations

import grp
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from rig.process import Process, free_port, wait_until
from rig.readable import readable
from rig.recipe import Recipe

if TYPE_CHECKING:
    from rig.user import User

PROGRAM = "/usr/sbin/nginx"
DEBIAN = Path("/etc/nginx")
WORKERS = 4
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
# what tpm2-pkcs11 reads from the environment of a worker, which nginx clears
PEER = ("TPM2_PKCS11_STORE", "TPM2_PKCS11_TCTI", "TSS2_LOG", "DBUS_SESSION_BUS_ADDRESS")
MORE = """client_body_temp_path {0}/lib/body; proxy_temp_path {0}/lib/proxy; fastcgi_temp_path {0}/lib/fastcgi;
uwsgi_temp_path {0}/lib/uwsgi; scgi_temp_path {0}/lib/scgi;
add_header X-Worker $pid always;
"""


class DebianNginx:
    """A server at `port` with a key in `user`'s token, of the kind `algorithm`; not running before `start`.

    `directory` has the configuration, logs and certificate; other users may look into it.
    """

    def __init__(self, user: User, directory: Path, algorithm: str = "p256") -> None:
        self.user = user
        self.directory = directory
        self.port = free_port()
        for part in ("etc/modules-enabled", "etc/conf.d", "run", "log", "lib"):
            (directory / part).mkdir(parents=True)
        self._write_debian()
        self._set_up(algorithm)
        self.process: Process | None = None

    def _write_debian(self) -> None:
        """Debian's own configuration, with a few workers, for this directory."""
        etc = self.directory / "etc"
        shutil.copy(DEBIAN / "mime.types", etc)
        text = (DEBIAN / "nginx.conf").read_text()
        for place, ours in {DEBIAN: etc, "/run": self.directory / "run", "/var/log/nginx": self.log}.items():
            assert str(place) in text, place
            text = text.replace(str(place), str(ours))
        text, count = re.subn(r"worker_processes \w+;", f"worker_processes {WORKERS};", text)
        assert count == 1
        (etc / "nginx.conf").write_text(text)
        (etc / "conf.d" / "00-directory.conf").write_text(MORE.format(self.directory))
        if PEER[0] in self.user.env:
            (etc / "modules-enabled" / "00-peer.conf").write_text("".join(f"env {name};\n" for name in PEER))

    def _set_up(self, algorithm: str) -> None:
        """As the recipe says."""
        etc = self.directory / "etc"
        places: dict[str, str | Path] = {
            "/etc/nginx": etc,
            "/var/lib/p11tpm": self.user.store,
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "www.example.com": "localhost",
            "p256": algorithm,
            "www-data": "www-data" if os.getuid() == 0 else grp.getgrgid(os.getgid()).gr_name,
        }
        recipe = Recipe.of(self.user, "nginx", places)
        recipe.run(0)
        recipe.run(1)
        self.certificate = etc / "web.pem"
        [line] = re.findall(r"^Environment=(.*)$", recipe.text(2), re.MULTILINE)
        self.env = {**self.user.env, **dict(pair.split("=", 1) for pair in line.split())}
        (etc / "modules-enabled" / "90-pkcs11.conf").write_text(recipe.text(3))
        (etc / "conf.d" / "tpm.conf").write_text(recipe.text(4))

    def read_pin_from(self, pin_file: Path) -> None:
        path = self.directory / "etc" / "conf.d" / "tpm.conf"
        text = path.read_text()
        assert str(self.user.pin_file) in text, text
        path.write_text(text.replace(str(self.user.pin_file), str(pin_file)))

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def said(self) -> str:
        """All that nginx, and what it loads, has said."""
        files = [self.log / "error.log", self.directory / "output"]
        return "".join(file.read_text() for file in files if file.exists())

    def _command(self, *options: str) -> list[str | Path]:
        return [PROGRAM, "-c", self.directory / "etc" / "nginx.conf", "-p", self.directory, *options]

    def start(self, *before: str | Path) -> None:
        """Start it as a systemd unit does; `before` are programs that take rights from it."""
        command = [*readable(), *before, *self._command("-g", "daemon off;")]
        self.process = Process(command, self.directory / "output", self.env)
        self.process.wait_listening(self.port)
        wait_until(lambda: len(self.workers()) == WORKERS, "nginx's workers")

    def test(self) -> subprocess.CompletedProcess[str]:
        """What `nginx -t` says of the configuration."""
        command = self._command("-t")
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)

    def stop(self) -> None:
        if self.process:
            self.process.stop()
        self.process = None

    def master(self) -> int:
        assert self.process
        return self.process.pid

    def workers(self) -> set[int]:
        """After a reload others are among them, on their way out."""
        return set(map(int, Path(f"/proc/{self.master()}/task/{self.master()}/children").read_text().split()))

    def reload(self) -> None:
        before = self.workers()

        def all_new() -> bool:
            return len(self.workers()) == WORKERS and not self.workers() & before

        os.kill(self.master(), signal.SIGHUP)
        wait_until(all_new, "new workers after a reload", 20)

    def get(self, version: ssl.TLSVersion) -> int:
        """One request on a connection of its own, whose handshake the key has signed: the worker that answered."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.minimum_version = context.maximum_version = version
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        with plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        [worker] = re.findall(rb"X-Worker: (\d+)", answer)
        return int(worker)

    def gets(self, count: int = 24) -> set[int]:
        """As many requests, eight at a time, by both versions of TLS in turn; all have to be answered."""
        with ThreadPoolExecutor(8) as pool:
            return set(pool.map(self.get, [VERSIONS[index % 2] for index in range(count)]))

    def each_worker_gets(self) -> None:
        """Requests until each worker has answered one."""
        answered: set[int] = set()

        def all_did() -> bool:
            answered.update(self.gets(8))
            return answered >= self.workers()

        wait_until(all_did, "a request for each worker", 30)
