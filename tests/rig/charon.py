"""A security gateway of IPsec, and who comes to it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from rig.process import Process, Stoppable, answers, clean_env, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rig.authority import Authority
    from rig.network import Network

INSIDE = "198.19.0.1"
# IPsec in user space, since not every kernel has it; two daemons are here, so each has sockets of its own
SETTINGS = """{more}
charon-systemd {{ filelog {{ log {{ path = {directory}/log
    flush_line = yes }} }} }}
charon {{ plugins {{ kernel-libipsec {{ load = yes }}
    stroke {{ load = no }}
    vici {{ socket = unix://{directory}/vici }} }} }}
swanctl {{ socket = unix://{directory}/vici }}
"""
GATEWAY_SETTINGS = """charon-systemd { load = random nonce x509 revocation constraints pubkey pkcs1 pem openssl kdf \
kernel-libipsec kernel-netlink socket-default vici }
"""
CONNECTIONS = """connections { any {
    pools = pool
    local { auth = pubkey
        certs = gateway.pem
        id = vpn.example.com }
    remote { auth = pubkey }
    children { office { local_ts = 198.19.0.0/24 } }
} }
pools { pool { addrs = 198.19.1.0/24 } }
"""


class Charon(Stoppable):
    """charon-systemd and its swanctl, with their settings in `directory`; `env` is what swanctl needs, too."""

    def __init__(self, directory: Path, more: str, env: Mapping[str, str], prefix: tuple[str, ...] = ()) -> None:
        settings = directory / "strongswan.conf"
        settings.write_text(SETTINGS.format(more=more, directory=directory))
        self._log = directory / "log"
        self.env = {**env, "STRONGSWAN_CONF": str(settings), "SWANCTL_DIR": str(directory / "swanctl")}
        self._socket = directory / "vici"
        self._command = [*prefix, "/usr/sbin/charon-systemd"]
        self.start()

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._process = Process(self._command, self._log.with_name("output"), self.env)
        wait_until(lambda: answers(self._socket), "charon")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def swanctl(self, *arguments: str) -> str:
        command = ["/usr/sbin/swanctl", *arguments]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise ChildProcessError(f"{arguments[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    def stop(self) -> None:
        self._process.stop()


def gateway(directory: Path, authority: Authority, network: Network) -> Charon:
    """A charon at FAR that lets in whom `authority` has certified, to INSIDE."""
    settings = directory / "swanctl"
    for name in ("x509", "x509ca", "private"):
        (settings / name).mkdir(parents=True)
    (settings / "swanctl.conf").write_text(CONNECTIONS)
    certificate, key = authority.pair("vpn.example.com", "subjectAltName=DNS:vpn.example.com")
    (settings / "x509" / "gateway.pem").write_bytes(certificate.read_bytes())
    (settings / "x509ca" / "ca.pem").write_bytes(authority.certificate.read_bytes())
    (settings / "private" / "gateway.key").write_bytes(key.read_bytes())
    network.far_ip("address", "replace", f"{INSIDE}/24", "dev", "lo")
    running = Charon(directory, GATEWAY_SETTINGS, clean_env(), tuple(network.at_far_end()))
    running.swanctl("--load-all")
    return running
