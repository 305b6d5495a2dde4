"""Runs p11tpm in a virtual machine: a real kernel with its resource manager, and systemd as process 1.

    vm.py            the parts that are fast
    vm.py all        all of them
    vm.py PART...    these
    vm.py shell      a shell of root in the machine; Ctrl-a x ends it

Ends with the numbers of checks that passed and failed, and with status 1 if one failed or the machine did not get to
the end. Root runs it: making the machine needs the right to mounts of its own.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

from bound import BoundBoots
from firmware import Measured, SecureBoots
from machine import HERE, Machine

FAST = ["ssh", "keys", "services", "luks"]  # by one boot, in this order
FAST_SECONDS = 600
OTHERS = {"gap": 3000, "suspend": 600, "boot": 900, "secureboot": 600, "bound": 600}  # by a boot for each; seconds
MACHINES = {"boot": Measured, "secureboot": SecureBoots, "bound": BoundBoots}  # the others: Machine
PLACE = HERE.parents[1] / ".vm"


class Score:
    """The checks that passed and failed."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def boot(self, parts: list[str]) -> None:
        """Run parts in one machine, and print what they say."""
        began, done = time.monotonic(), False
        with MACHINES.get(parts[0], Machine)(PLACE) as machine:
            try:
                for line in machine.run(parts, max(OTHERS.get(part, FAST_SECONDS) for part in parts)):
                    print(f"{time.monotonic() - began:7.1f} s  {line}", flush=True)
                    self.passed += line.startswith("ok - ")
                    self.failed += line.startswith("not ok - ")
                    done = line == "end - all"
                    if done:  # how it switches itself off is of no interest
                        break
            except TimeoutError:
                pass
            if not done:
                self.failed += 1
                print("not ok - the machine did not get to the end; its console:", *machine.console, sep="\n    ")

    def total(self) -> int:
        """Print the numbers; return the exit status."""
        print(f"{self.passed} passed, {self.failed} failed")
        return int(bool(self.failed) or not self.passed)


def boots(wanted: list[str]) -> list[list[str]]:
    """Return the parts of each boot."""
    if wanted in ([], ["all"]):
        return [FAST, *([part] for part in OTHERS if wanted)]
    fast = [part for part in wanted if part not in OTHERS]
    return [*([fast] if fast else []), *([part] for part in wanted if part in OTHERS)]


def main(wanted: list[str]) -> int:
    """Make the machine if need be, and run what is wanted."""
    for program in ("qemu-system-x86_64", "swtpm", "mke2fs", "mformat", "objcopy", "sbsign"):
        if not shutil.which(program):
            sys.exit(f"Cannot run a virtual machine: there is no {program}")
    if subprocess.run(["bash", str(HERE / "image.sh"), str(PLACE)], timeout=1800, check=False).returncode:
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the machine goes, and all that was made for it
    if wanted == ["shell"]:
        with Machine(PLACE) as machine:
            machine.shell()
        return 0
    for one in set(wanted) - {"all", "shell"}:
        if not (HERE / "parts" / f"{one}.sh").exists():
            sys.exit(f"there is no part '{one}' in tests/vm/parts")
    score = Score()
    for parts in boots(wanted):
        score.boot(parts)
    return score.total()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
