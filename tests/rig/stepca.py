"""The real step-ca."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rig.caclient import CaClient
from rig.golang import go
from rig.process import Process, Stoppable, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "contrib" / "step-ca" / "main.go"
PACKAGE = "golang-github-smallstep-certificates-dev"


def build() -> Path:
    """Path of step-ca: half a minute, then at once."""
    return go("build", name="step-ca", what=SOURCE, package=PACKAGE)


class StepCa(Stoppable):
    """A step-ca on this machine, with the `settings` of its ca.json; its own files are below `directory`.

    `settings` must leave it `port` of the loopback interface and the name localhost. `options` are of the command line,
    `wrapper` is a command that starts another one.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        env: Mapping[str, str],
        directory: Path,
        options: Sequence[str] = (),
        wrapper: Sequence[str | Path] = (),
    ) -> None:
        self.port = int(str(settings["address"]).rpartition(":")[2])
        self.root = Path(settings["root"])
        self.config = directory / "ca.json"
        self.config.write_text(json.dumps(settings))
        self._log = directory / "step-ca.log"
        self._env = {**env, "STEPPATH": str(directory / "step")}
        self._command = [*wrapper, build(), *options, self.config]
        self.process = self._start()

    def _start(self) -> Process:
        return Process(self._command, self._log, self._env)

    def ready(self) -> Self:
        """Wait until it answers; ChildProcessError with its log if it ends."""
        wait_until(lambda: "Serving HTTPS" in self.log or self._over(), "step-ca", 60)
        self.process.wait_listening(self.port)
        return self

    def restart(self) -> None:
        """End it as a power cut does, and start it again."""
        self.process.kill()
        self._log.unlink()
        self.process = self._start()
        self.ready()

    def reload(self) -> None:
        """Make it read its settings again, while it answers; ChildProcessError with its log if it does not."""
        served = self.log.count("Serving HTTPS")
        os.kill(self.process.pid, signal.SIGHUP)
        ended = ("error reloading", "Serving HTTPS")
        wait_until(lambda: sum(self.log.count(word) for word in ended) > served or self._over(), "step-ca's reload", 30)
        if self._over() or ended[0] in self.log:
            raise ChildProcessError(f"step-ca did not reload: {self.log}")

    def ended(self) -> str:
        """Wait until it ends of itself; give what it said."""
        wait_until(self._over, "end of step-ca", 30)
        return self.log

    def _over(self) -> bool:
        return not self.process.running()

    @property
    def log(self) -> str:
        return self.process.output()

    def client(self, certificate: Path | None = None) -> CaClient:
        """One connection; `certificate` is a file with a certificate and its key that the client shows."""
        return CaClient(self.port, self.root, certificate)

    def stop(self) -> None:
        self.process.stop()


def settings(directory: Path, kms: str, key: str, *provisioners: Mapping[str, Any]) -> dict[str, Any]:
    """A ca.json for tests: root.crt and intermediate.crt in `directory`, `key` and `kms` as URIs."""
    return {
        "kms": {"type": "pkcs11", "uri": kms},
        "root": str(directory / "root.crt"),
        "crt": str(directory / "intermediate.crt"),
        "key": key,
        "address": f"127.0.0.1:{free_port()}",
        "dnsNames": ["localhost"],
        "authority": {"provisioners": list(provisioners)},
    }
