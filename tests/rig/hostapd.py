"""A network that lets in who has a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rig.process import Process, Stoppable, free_port, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from rig.authority import Authority
    from rig.wire import Wire

SETTINGS = """
logger_stdout=-1
logger_stdout_level=1
eap_server=1
eap_user_file={directory}/users
ca_cert={ca}
server_cert={certificate}
private_key={key}
tls_flags=[ENABLE-TLSv1.3]
"""
WIRED = "driver=wired\ninterface={interface}\nieee8021x=1\nuse_pae_group_addr=1\n"
RADIUS = "driver=none\nradius_server_clients={directory}/clients\nradius_server_auth_port={port}\n"


class Hostapd(Stoppable):
    """hostapd and its EAP server, which knows whom `authority` has certified; its own files are in `directory`.

    With `wire` it is the switch at that wire's far end, else a RADIUS server: its `port` of the loopback interface is
    for who knows `secret`.
    """

    secret = "between-friends"

    def __init__(self, directory: Path, authority: Authority, wire: Wire | None = None) -> None:
        names = "subjectAltName=DNS:radius.example.com\nextendedKeyUsage=serverAuth"
        certificate, key = authority.pair("radius", names)
        (directory / "users").write_text("* TLS\n")
        (directory / "clients").write_text(f"127.0.0.1/32 {self.secret}\n")
        self.port = free_port()
        kind = WIRED.format(interface=wire.far) if wire else RADIUS.format(directory=directory, port=self.port)
        config = directory / "hostapd.conf"
        config.write_text(
            kind + SETTINGS.format(directory=directory, ca=authority.certificate, certificate=certificate, key=key)
        )
        argv = ["/usr/sbin/hostapd", str(config)]
        self._process = Process(wire.at_far_end(*argv) if wire else argv, directory / "hostapd.log")
        try:
            wait_until(lambda: "AP-ENABLED" in self._process.output(), "hostapd")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self._process.stop()
