"""Random calls of every function of the module by a host in C: ``python tests/fuzz/storm.py``, which is make fuzz.

The environment says how much: CALLS (1,000,000) or SECONDS, and SEED (the clock's). A round is a process that makes
some thousand calls on a store that is the same at the beginning of each; ROUND plays one of them only.
"""

# ruff: noqa: T201 - a command prints

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import rig
from host.programs import Hosts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SOURCE = "../fuzz/abi/fuzz"
CALLS = 5000  # of a round
PATIENCE = 1800  # seconds for a round, of whose calls each has a deadline
TRIES = 31  # wrong PINs that the TPM takes; a round gives three, and its children none
IN_MEMORY = Path("/dev/shm")  # no disk that a write to the store would wait for


class Answers(NamedTuple):
    """The answers of one function by their names, how long its calls took, and whether it can succeed."""

    codes: dict[str, int]
    microseconds: int
    can: bool

    @property
    def number(self) -> int:
        return sum(self.codes.values())


class Storm:
    """Rounds of calls on a TPM."""

    def __init__(self, module: str | Path, directory: Path, seed: int, env: Mapping[str, str] | None = None) -> None:
        self.seed = seed
        self._module = module
        self._directory = directory
        self._state = directory / "state"
        self._program = Hosts(directory).program(SOURCE)
        self._tpm = rig.Swtpm(max_tries=TRIES)
        self._stores = Path(tempfile.mkdtemp(prefix="p11tpm-fuzz-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None))
        self._store, self._fresh = self._stores / "store", self._stores / "fresh"
        config = rig.write_secret(directory / "p11tpm.conf", f"log = {directory}/log\n")
        places = {"P11TPM_TCTI": self._tpm.tcti, "P11TPM_STORE": str(self._store), "P11TPM_CONF": str(config)}
        self._env = rig.clean_env(**places, **(env or {}))
        self._run("prepare")
        self._store.rename(self._fresh)

    def stop(self) -> None:
        self._tpm.stop()
        shutil.rmtree(self._stores, ignore_errors=True)

    def _run(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            [self._program, self._module, *map(str, arguments)],
            env=self._env,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode or done.stderr:
            raise AssertionError(f"{done.returncode}: {done.stderr}\nThe module's log:\n{self._log()}")
        return done.stdout

    def _log(self) -> str:
        log = self._directory / "log"
        return log.read_text(errors="replace")[-6000:] if log.exists() else ""

    def play(self, number: int, calls: int = CALLS) -> None:
        """Make the calls of a round; AssertionError with the last ones if something is wrong."""
        shutil.rmtree(self._store, ignore_errors=True)
        shutil.copytree(self._fresh, self._store)
        self._run("round", str(self.seed), str(number), str(calls), self._state)
        tries = self._tpm.lockout_counter()
        assert tries < TRIES / 2, f"wrong PINs of round {number} cost {tries} of the TPM's tries"
        self._tpm.tool("dictionarylockout", "--clear-lockout")

    def answers(self) -> dict[str, Answers]:
        """Return what each function has answered in all rounds."""
        rows = (line.split() for line in self._run("table", self._state).splitlines())
        return {
            name: Answers(
                {code: int(number) for code, _, number in (one.partition("=") for one in counts)},
                int(microseconds),
                can == "can",
            )
            for name, can, microseconds, *counts in rows
        }

    def made(self) -> int:
        return sum(one.number for one in self.answers().values())


def never_good(answers: dict[str, Answers]) -> set[str]:
    """Return the functions that never succeeded, though they can."""
    return {name for name, one in answers.items() if one.can and not one.codes.get("OK")}


def _end() -> Callable[[int], bool]:
    seconds, calls = os.environ.get("SECONDS"), int(os.environ.get("CALLS") or 1_000_000)
    end = time.monotonic() + float(seconds or 0)
    return lambda made: time.monotonic() > end if seconds else made >= calls


def _play_all(storm: Storm) -> None:
    ended, began, only = _end(), time.monotonic(), os.environ.get("ROUND")
    number = made = 0
    while not ended(made):
        storm.play(int(only or number))
        number, made = number + 1, storm.made()
        seconds = time.monotonic() - began
        if number % 10 == 0:
            print(f"{made} calls in {seconds:.0f} s, {made / seconds:.0f} a second", flush=True)
        if only:
            return


def _show(answers: dict[str, Answers]) -> None:
    for name, one in answers.items():
        codes = "  ".join(f"{code} {number}" for code, number in sorted(one.codes.items(), key=lambda item: -item[1]))
        print(f"{name:24}{one.number:9}{one.microseconds / max(1, one.number):9.0f} us  {codes}")
    print("never succeeded, but can:", ", ".join(sorted(never_good(answers))) or "none")


def main() -> int:
    """Run the command."""
    seed = int(os.environ.get("SEED") or time.time())
    command = [Path(sys.prefix) / "bin" / "p11tpm", "module"]
    module = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    print(f"make fuzz SEED={seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="p11tpm-fuzz-") as directory:
        storm = Storm(module, Path(directory), seed)
        try:
            _play_all(storm)
        except AssertionError as error:
            print(f"{error}\nmake fuzz SEED={seed} ROUND=... plays that round again")
            return 1
        finally:
            _show(storm.answers())
            storm.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
