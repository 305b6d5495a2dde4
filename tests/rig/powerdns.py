"""PowerDNS as Debian sets it up, and as the recipe adds to that, with its files below a directory."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from rig.p11_kit import installed
from rig.process import Process, Stoppable, free_port
from rig.program import said
from rig.readable import readable
from rig.recipe import Recipe

if TYPE_CHECKING:
    from rig.user import User

SETTINGS, DATABASE, KEY, RIGHTS, UNIT, _ = range(6)  # blocks of the recipe
ALGORITHMS = {"p256": ("ecdsa256", 13), "rsa2048": ("rsasha256", 8)}  # algorithm: its name for pdnsutil, its number
MORE = """local-address=127.0.0.1
local-port={port}
socket-dir={directory}
"""


class PowerDns(Stoppable):
    """A server at `port` for the zone example.org, signed by a key of the kind `algorithm` in `user`'s token.

    `directory` has the configuration, the database and the log. The server runs as the user pdns if that can be.
    """

    def __init__(self, user: User, directory: Path, algorithm: str) -> None:
        self.user = user
        self.directory = directory
        self.port = free_port()
        self._algorithm = algorithm
        etc = directory / "etc"
        (etc / "pdns.d").mkdir(parents=True)
        debian = Path("/etc/powerdns/pdns.conf").read_text()
        assert "include-dir=/etc/powerdns/pdns.d\n" in debian
        (etc / "pdns.conf").write_text(debian.replace("/etc/powerdns", str(etc)))
        (etc / "pdns.d" / "more.conf").write_text(MORE.format(port=self.port, directory=directory))
        self._options = (f"--config-dir={etc}",)
        self._kit = installed(user, {"pdnsutil": ["/usr/bin/pdnsutil", *self._options]})
        self._owner = "pdns" if os.getuid() == 0 else str(os.getuid())
        self._group = "pdns" if os.getuid() == 0 else str(os.getgid())
        self._set_up(etc)
        self._process = self._start()

    def _set_up(self, etc: Path) -> None:
        """As the recipe says."""
        places: dict[str, str | Path] = {
            "/var/lib/powerdns": self.directory,
            "/var/lib/p11tpm": self.user.store,
            "-o pdns -g pdns": f"-o {self._owner} -g {self._group}",
            "chgrp -R pdns": f"chgrp -R {self._group}",
            "p256": self._algorithm,
            "ecdsa256": ALGORITHMS[self._algorithm][0],
        }
        self.recipe = Recipe.of(self.user, "powerdns", places)
        (etc / "pdns.d" / "p11tpm.conf").write_text(self.recipe.text(SETTINGS))
        for block in (DATABASE, KEY, RIGHTS):
            self.recipe.run(block)
        self.pdnsutil("add-record", "example.org", "www", "A", "192.0.2.1")
        [variable] = re.findall(r"^Environment=(\w+)=(.*)$", self.recipe.text(UNIT), re.MULTILINE)
        self._env = {**self.user.env, **dict([variable])}

    def pdnsutil(self, *arguments: str) -> str:
        return said([self.user.directory / "programs" / "pdnsutil", *arguments], self.user.env, self.directory)

    def _start(self) -> Process:
        identity: tuple[str, ...] = ()
        if os.getuid() == 0:
            self.directory.chmod(0o777)  # for the socket of its control
            identity = ("/usr/bin/setpriv", f"--reuid={self._owner}", f"--regid={self._group}", "--init-groups")
        options = (*self._options, "--guardian=no", "--daemon=no", "--write-pid=no")
        command = self._kit.command(*readable(), *identity, "/usr/sbin/pdns_server", *options)
        process = Process(command, self.directory / "log", self._env)
        try:
            process.wait_listening(self.port)
        except BaseException:
            process.stop()
            raise
        return process

    def restart(self) -> None:
        self._process.stop()
        self._process = self._start()

    @property
    def log(self) -> str:
        return self._process.output()

    def anchor(self) -> str:
        """What a validator has to trust: the DNSKEY of the key in the token, in the syntax of BIND."""
        key = load_pem_public_key(self.user.p11tpm("key", "public", "example.org", "--format", "pem").encode())
        if isinstance(key, EllipticCurvePublicKey):
            point = key.public_numbers()
            public = point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")  # RFC 6605, clause 4
        else:
            assert isinstance(key, RSAPublicKey)
            numbers = key.public_numbers()
            exponent = numbers.e.to_bytes(3, "big")
            public = bytes((len(exponent),)) + exponent + numbers.n.to_bytes(256, "big")  # RFC 3110, clause 2
        text = base64.b64encode(public).decode()
        return f'trust-anchors {{ example.org. static-key 257 3 {ALGORITHMS[self._algorithm][1]} "{text}"; }};\n'

    def validated(self, name: str, anchor: str) -> str:
        """What delv says of the addresses of a name, when it trusts nothing but `anchor`."""
        anchors = self.directory / "anchors"
        anchors.write_text(anchor)
        where = ("@127.0.0.1", "-p", str(self.port))
        command = ["/usr/bin/delv", *where, "-a", str(anchors), "+root=example.org", name, "A"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    def stop(self) -> None:
        self._process.stop()
