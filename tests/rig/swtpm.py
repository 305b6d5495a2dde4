"""A private software TPM."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rig.process import Process, Stoppable, clean_env, free_port

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rig.tabrmd import Tabrmd


class Swtpm(Stoppable):
    """A TPM 2.0 of its own: fresh state in a temporary directory, reached by `tcti`, gone after `stop()`.

    It has no resource manager: what a killed process left loaded stays until `flush()`, `restart()` or the end.
    `max_tries` sets the TPM's dictionary-attack limit (swtpm's own: 3 tries, 1000 s); None leaves it alone.
    """

    def __init__(self, max_tries: int | None = None, recovery_seconds: int = 1000) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="p11tpm-swtpm-"))
        self.env: dict[str, str] = {}
        self._process: Process | None = None
        self._start_on_free_ports()
        if max_tries is not None:
            self.set_lockout(max_tries, recovery_seconds)

    @property
    def tcti(self) -> str:
        return f"swtpm:host=127.0.0.1,port={self.port}"

    def _start_on_free_ports(self) -> None:
        for attempt in range(5):
            self.port = free_port(2)
            try:
                self._start()
            except ChildProcessError:  # somebody took one of the ports between the look and the start
                if attempt == 4:
                    self.stop()
                    raise
            else:
                return

    def _start(self) -> None:
        def channel(kind: str, port: int) -> list[str]:
            return [f"--{kind}", f"type=tcp,port={port},bindaddr=127.0.0.1"]

        self._process = Process(
            [
                "/usr/bin/swtpm",
                "socket",
                "--tpm2",
                *("--tpmstate", f"dir={self.directory},mode=0600"),
                *channel("server", self.port),
                *channel("ctrl", self.port + 1),
                *("--flags", "not-need-init,startup-clear"),
            ],
            self.directory / "swtpm.log",
        )
        self._process.wait_listening(self.port)
        self._process.wait_listening(self.port + 1)

    def restart(self) -> None:
        """Power cut and power on: loaded keys and sessions are lost, persistent objects stay (TPM Reset)."""
        self.power_off()
        self._start()

    def reboot(self) -> None:
        """Orderly, as an operating system does it: the TPM counts nothing."""
        self.tool("shutdown", "--clear")
        self.restart()

    def power_off(self) -> None:
        """Nobody answers on the port until `restart()`."""
        if self._process:
            self._process.kill()

    def frozen(self) -> AbstractContextManager[None]:
        """For the time of a context, take connections and commands but answer none."""
        if not self._process:
            raise RuntimeError("the TPM is off")
        return self._process.frozen()

    def is_asked(self) -> bool:
        """Whether a command has come that was not read (proc(5), /proc/net/tcp: rx_queue), as while it is `frozen`."""
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return any(row[1].endswith(f":{self.port:04X}") and row[3] == "01" and row[4][9:] != "00000000" for row in rows)

    def stop(self) -> None:
        self.power_off()
        shutil.rmtree(self.directory, ignore_errors=True)

    def tool(self, name: str, *arguments: str, via: Tabrmd | None = None) -> str:
        """Output of the tpm2-tools command `name` on this TPM (through a resource manager if `via`)."""
        place = via or self
        env = clean_env(TPM2TOOLS_TCTI=place.tcti, **place.env)
        done = subprocess.run(
            [f"/usr/bin/tpm2_{name}", *arguments], env=env, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise ChildProcessError(f"tpm2_{name}: {done.stderr.strip()}")
        return done.stdout

    def flush(self) -> None:
        """Drop all loaded keys and sessions, as the kernel's resource manager does for a process that ended."""
        for kind in ("--transient-object", "--loaded-session", "--saved-session"):
            self.tool("flushcontext", kind)

    def set_lockout(self, max_tries: int, recovery_seconds: int = 1000) -> None:
        """Dictionary-attack parameters: `max_tries` wrong PINs, one forgiven every `recovery_seconds`."""
        seconds = str(recovery_seconds)
        tries = ("--max-tries", str(max_tries))
        times = ("--recovery-time", seconds, "--lockout-recovery-time", seconds)
        self.tool("dictionarylockout", "--setup-parameters", *tries, *times)

    def extend(self, pcr: int, event: bytes, via: Tabrmd | None = None) -> None:
        """Measure an event into a PCR, in the bank of SHA-256 (through a resource manager if `via`)."""
        self.tool("pcrextend", f"{pcr}:sha256={hashlib.sha256(event).hexdigest()}", via=via)

    def pcr(self, pcr: int) -> bytes:
        """The value of a PCR in the bank of SHA-256."""
        return bytes.fromhex(self.tool("pcrread", f"sha256:{pcr}").partition("0x")[2].strip())

    def clear(self) -> None:
        """TPM2_Clear: a new owner, all keys of the old one are lost."""
        self.tool("clear")

    def property(self, name: str) -> int:
        """A variable property (TPM 2.0 part 2, 6.13), by tpm2-tools' name without "TPM2_PT_"."""
        found = re.search(rf"^TPM2_PT_{name}: (\w+)", self.tool("getcap", "properties-variable"), re.MULTILINE)
        if not found:
            raise LookupError(name)
        return int(found[1], 0)

    def lockout_counter(self) -> int:
        """Number of wrong tries that the TPM remembers."""
        return self.property("LOCKOUT_COUNTER")

    def loaded(self) -> list[str]:
        """Handles of loaded keys and sessions, for example "0x80000000"."""
        kinds = ("handles-transient", "handles-loaded-session", "handles-saved-session")
        return [handle for kind in kinds for handle in re.findall(r"0x[0-9A-Fa-f]+", self.tool("getcap", kind))]

    def persistent(self) -> list[str]:
        return re.findall(r"0x[0-9A-Fa-f]+", self.tool("getcap", "handles-persistent"))
