"""The modules that are compared, each with its stores: p11tpm, tpm2-pkcs11 (C, TPM) and SoftHSM (C, no TPM)."""

from __future__ import annotations

import compileall
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from program import BenchError, Host

import p11tpm
import rig
from p11tpm.ck import CKA, CKU
from p11tpm.core.token import Token
from p11tpm.host.config import Config
from p11tpm.host.ending import Ending
from p11tpm.store import Store
from p11tpm.store.rows import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from program import Program

    Tpm = rig.Swtpm | rig.CountingProxy

PIN = b"123456"
LIBRARIES = ("/usr/lib", "/usr/lib64")


def key(index: int) -> str:
    """Name of a key of a large store, as host.c makes it: both CKA_ID and CKA_LABEL."""
    return f"k{index:05}"


def find_library(pattern: str) -> str:
    """Path of a Debian package's module; BenchError if it is not installed."""
    for directory in LIBRARIES:
        for path in sorted(Path(directory).glob(pattern)):
            return str(path)
    raise BenchError(f"no {pattern} below {' or '.join(LIBRARIES)}: make bench installs it on Debian")


class Product(ABC):
    """A module. `directory` holds its stores by name; `most_keys` is the largest store that is made for it."""

    name: str
    module: str
    most_keys = 10_000
    keys_per_process = 100

    def __init__(self, program: Program, directory: Path) -> None:
        self.program = program
        self.directory = directory / self.name

    @abstractmethod
    def env(self, tpm: Tpm, store: str) -> dict[str, str]:
        """Environment of a host: everything that the module reads, and nothing of this machine's own settings."""

    @abstractmethod
    def fill(self, tpm: Tpm, store: str, count: int) -> None:
        """Fill a store that has the first key to `count` keys, which differ in CKA_ID and CKA_LABEL."""

    def host(self, tpm: Tpm, store: str) -> Host:
        """Start a process that has not loaded the module yet."""
        return Host(self.program, self.module, self.env(tpm, store))

    def first(self, tpm: Tpm, store: str) -> dict[str, float]:
        """Run a process to its first signature: `Program.first`."""
        return self.program.first(self.module, self.env(tpm, store))

    def make(self, tpm: Tpm, store: str, keys: list[tuple[str, str]]) -> None:
        """Make a store with a token and these (kind, name) pairs, by the functions of PKCS#11."""
        (self.directory / store).mkdir(parents=True, mode=0o700)
        with self.host(tpm, store) as host:
            for command in ("load", "initialize", "init", "close"):
                host.ask(command)
        self._flush(tpm)
        for start in range(0, len(keys), self.keys_per_process):
            with self.host(tpm, store).open() as host:
                for kind, name in keys[start : start + self.keys_per_process]:
                    host.ask(f"generate {kind} {name}")
                host.ask("close")
            self._flush(tpm)

    def copy(self, tpm: Tpm, store: str, count: int) -> str:
        """Make a store of `count` keys from one that has the first key and give its name."""
        name = f"{store}-{count}"
        shutil.copytree(self.directory / store, self.directory / name)
        self.fill(tpm, name, count)
        return name

    def _flush(self, tpm: Tpm) -> None:  # noqa: B027 - the others leave nothing
        """Free what a process left in the TPM; only tpm2-pkcs11 leaves anything."""


class P11tpm(Product):
    """This project's module."""

    name = "p11tpm"

    def __init__(self, program: Program, directory: Path) -> None:
        super().__init__(program, directory)
        # an edited checkout has no byte code yet; the module, which never writes any, would compile it at each start
        compileall.compile_dir(Path(p11tpm.__file__).parent, quiet=1)
        command = [Path(sys.prefix) / "bin" / "p11tpm", "module"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        self.module = told.stdout.strip()
        self._conf = rig.write_secret(directory / "p11tpm.conf", "")

    def env(self, tpm: Tpm, store: str) -> dict[str, str]:
        where = str(self.directory / store)
        return rig.clean_env(P11TPM_TCTI=tpm.tcti, P11TPM_STORE=where, P11TPM_CONF=str(self._conf))

    def fill(self, tpm: Tpm, store: str, count: int) -> None:
        """Add copies of the first key's two objects as the core itself would write them.

        A key's authorisation value comes from its object's identifier, so only the first key itself can sign.
        """
        with self.token(tpm, store) as (token, shelf):
            objects = token.objects
            models = [objects.record(id_) for id_ in objects.find({CKA.ID: key(0).encode()})]
            shelf.add([_renamed(token, model, key(index).encode()) for index in range(1, count) for model in models])

    @contextlib.contextmanager
    def token(self, tpm: Tpm, store: str) -> Iterator[tuple[Token, Store]]:
        """Return the token of a store, logged in, as the core has it without PKCS#11's functions around it."""
        os.environ.update(self.env(tpm, store))
        shelf = Store(str(self.directory / store))
        token = Token.open_all(Config.load(), shelf)[0]
        token.login(CKU.USER, PIN)
        yield token, shelf
        token.close(Ending())
        shelf.close()


def _renamed(token: Token, model: Record, name: bytes) -> Record:
    uuid = os.urandom(16)
    names = {CKA.ID: name, CKA.LABEL: name, CKA.UNIQUE_ID: uuid.hex().encode()}
    record = Record(token.id, uuid, {**model.attributes, **names}, model.tpm_public, model.tpm_private)
    record.mac = token.tpm.secret.mac(record)
    return record


class Tpm2Pkcs11(Product):
    """The C peer."""

    name = "tpm2-pkcs11"
    keys_per_process = 1  # a second C_GenerateKeyPair finds no room in the TPM

    def __init__(self, program: Program, directory: Path) -> None:
        super().__init__(program, directory)
        self.module = find_library("**/libtpm2_pkcs11.so*")

    def env(self, tpm: Tpm, store: str) -> dict[str, str]:
        return rig.clean_env(
            TPM2_PKCS11_TCTI=tpm.tcti, TPM2_PKCS11_STORE=str(self.directory / store), TSS2_LOG="all+none"
        )

    def _flush(self, tpm: Tpm) -> None:
        (tpm if isinstance(tpm, rig.Swtpm) else tpm.swtpm).flush()

    def fill(self, tpm: Tpm, store: str, count: int) -> None:  # noqa: ARG002 - it is done in the database
        """Add copies of the first key's two rows, in which CKA_ID and CKA_LABEL are replaced; all of them can sign."""
        old = key(0).encode().hex()
        with sqlite3.connect(self.directory / store / "tpm2_pkcs11.sqlite3") as database:
            models = database.execute("SELECT tokid, attrs FROM tobjects ORDER BY id").fetchall()
            if len(models) != 2 or any(attributes.count(f'"{old}"') != 2 for _, attributes in models):
                raise BenchError("tpm2-pkcs11's store is not as it was in version 1.9")
            rows = [
                (token, attributes.replace(f'"{old}"', f'"{key(index).encode().hex()}"'))
                for index in range(1, count)
                for token, attributes in models
            ]
            database.executemany("INSERT INTO tobjects (tokid, attrs) VALUES (?, ?)", rows)
        database.close()


class SoftHsm(Product):
    """A PKCS#11 module in C without any hardware, for reference: its keys are files."""

    name = "SoftHSM"
    most_keys = 1_000

    def __init__(self, program: Program, directory: Path) -> None:
        super().__init__(program, directory)
        self.module = find_library("softhsm/libsofthsm2.so")

    def env(self, tpm: Tpm, store: str) -> dict[str, str]:  # noqa: ARG002 - it has no TPM
        conf = self.directory / f"{store}.conf"
        where = self.directory / store
        conf.write_text(f"directories.tokendir = {where}\nobjectstore.backend = file\nlog.level = ERROR\n")
        return rig.clean_env(SOFTHSM2_CONF=str(conf))

    def fill(self, tpm: Tpm, store: str, count: int) -> None:
        """Generate the keys: an object's file is encrypted, so that it cannot be copied under another name."""
        with self.host(tpm, store).open() as host:
            for index in range(1, count):
                host.ask(f"generate p256 {key(index)}")
            host.ask("close")
