"""A software TPM behind the user-space resource manager."""

from __future__ import annotations

import subprocess

from rig.process import Process, Stoppable, answers, clean_env, wait_until
from rig.swtpm import Swtpm

BUS_NAME = "com.intel.tss2.Tabrmd"

# no service is started by the bus, nothing of the desktop's bus is seen; all users are let in, as by the system bus
BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
"""


class Tabrmd(Stoppable):
    """swtpm, a private D-Bus daemon and tpm2-abrmd: many processes share the TPM as they do on a real machine.

    A client needs `env` (the address of the bus) besides `tcti`.
    """

    tcti = f"tabrmd:bus_name={BUS_NAME},bus_type=session"

    def __init__(self, max_tries: int | None = None) -> None:
        self.swtpm = Swtpm(max_tries)
        directory = self.swtpm.directory
        bus = directory / "bus"
        self.env = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}"}
        config = directory / "bus.conf"
        config.write_text(BUS_CONFIG.format(path=bus))
        self._processes: list[Process] = []
        try:
            self._run(["/usr/bin/dbus-daemon", "--nofork", "--nopidfile", f"--config-file={config}"])
            wait_until(lambda: answers(bus), "D-Bus")
            self._start_broker()
        except BaseException:
            self.stop()
            raise

    def _start_broker(self) -> None:
        options = ["--session", "--allow-root", "--flush-all", f"--dbus-name={BUS_NAME}", f"--tcti={self.swtpm.tcti}"]
        self._run(["/usr/sbin/tpm2-abrmd", *options])
        wait_until(self._owned, "tpm2-abrmd")

    def restart(self) -> None:
        """A new tpm2-abrmd on the same bus; it flushes what its predecessor left in the TPM."""
        self._processes.pop().kill()
        wait_until(lambda: not self._owned(), "the bus noticing that tpm2-abrmd has gone")
        self._start_broker()

    def _run(self, argv: list[str]) -> None:
        log = self.swtpm.directory / f"{len(self._processes)}.log"
        self._processes.append(Process(argv, log, clean_env(**self.env)))

    def _owned(self) -> bool:
        """True once tpm2-abrmd has its name on the bus."""
        for process in self._processes:
            if not process.running():
                raise ChildProcessError(f"{process.name}: {process.output()}")
        address = self.env["DBUS_SESSION_BUS_ADDRESS"]
        ask = ["--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.GetNameOwner"]
        command = ["/usr/bin/dbus-send", f"--bus={address}", *ask, f"string:{BUS_NAME}"]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()
        self.swtpm.stop()
