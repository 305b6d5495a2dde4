"""The C program that uses the modules, and a running one of it."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rig.deadline import killed_after

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).resolve().parent
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", "-Wno-unused-function")
SECONDS = 120  # for one command of a host; a module may hang
STEPS = ("load", "initialize", "slots", "session", "login")


class BenchError(Exception):
    """Something that the bench needs does not work; the text says what."""


class Program:
    """host.c, compiled into a directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "host"
        told = subprocess.run(
            ["pkg-config", "--cflags", "p11-kit-1"], capture_output=True, text=True, timeout=60, check=True
        )
        source = [*shlex.split(told.stdout), str(HERE / "host.c"), "-o", str(self.path)]
        subprocess.run(["gcc", "-std=gnu11", "-O1", *WARNINGS, *source, "-pthread", "-ldl"], timeout=60, check=True)

    def first(self, module: str, env: Mapping[str, str], kind: str = "p256", name: str = "k00000") -> dict[str, float]:
        """Times (us) of the steps from the start of a process to its first signature, and its memory (KiB)."""
        argv = [self.path, module, "first", kind, name]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise BenchError(f"{module}: {done.stderr.strip() or done.returncode}")
        times: dict[str, float] = json.loads(done.stdout)
        if times["errors"]:
            raise BenchError(f"{module}: the first signature failed")
        return times


class Host:
    """A process of the program with a module; it obeys `ask` until the end of its context."""

    def __init__(self, program: Program, module: str, env: Mapping[str, str]) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [program.path, module],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str) -> dict[str, Any]:
        """Have a command of host.c done and give what it says; BenchError if the program ended over it."""
        process = self._process
        process.stdin.write(command + "\n")
        process.stdin.flush()
        with killed_after(process.pid, SECONDS):
            line = process.stdout.readline()
        if not line:
            raise BenchError(f"{self._module}: {command}: {process.stderr.read().strip()}")
        return json.loads(line)

    def open(self) -> Self:
        """Go all the way to a login."""
        for step in STEPS:
            self.ask(step)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()
        self._process.stderr.close()
