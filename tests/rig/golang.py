"""Programs made of Debian's packages of Go sources."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

from rig.deadline import lock
from rig.process import clean_env

PLACE = Path(sys.prefix) / "go"  # in the environment of the tests: the checkout's own files stay as they are
SECONDS = 300  # for a build, with other programs at work beside it


def go(*verb: str, name: str, what: str | Path, package: str) -> Path:
    """Path of the program `name`, which `go VERB` makes of `what`, unless that was done before.

    `what` is a source file or an import path, `package` the Debian package that it needs: another version of either
    makes the program anew.
    """
    version = subprocess.run(
        ["dpkg-query", "-W", "-f=${Version}", package], capture_output=True, timeout=60, check=True
    ).stdout
    source = what.read_bytes() if isinstance(what, Path) else what.encode()
    made = PLACE / f"{name}-{hashlib.sha256(source + version).hexdigest()[:16]}"
    made.parent.mkdir(exist_ok=True)
    with (made.parent / f"{name}.lock").open("w") as turn:
        lock(turn, fcntl.LOCK_EX, f"another build of {name}", SECONDS)
        if not made.exists():
            new = made.with_suffix(".new")
            env = clean_env(GO111MODULE="off", GOPATH="/usr/share/gocode", CGO_ENABLED="1")
            command = ["/usr/bin/nice", "/usr/bin/go", *verb, "-p", "2", "-o", str(new), str(what)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
            if done.returncode:
                raise ChildProcessError(f"go {verb[0]}: {done.stderr}")
            new.rename(made)
    return made
