"""A program of its own that kills hosts in the middle of what they write, with the preloaded fault.c of tests/unit.

Arguments: the module, the port of a software TPM, a directory, the number of kills and a seed. Each operation is done
once to count the points at which it changes a file or asks the TPM, and then in new processes that end by SIGKILL at
some of these points, or at a moment that nobody has chosen. After each, another new process looks at what is there.
Prints one line for each kill: the operation, the point, and what was found: the old state, the new one, or a fault.
"""

# ruff: noqa: E402 - the folders of the tests are found first

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import pickle
import random
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "api")]

from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptoki import SO, USER, Cryptoki, Rv
from keys import TOKEN, ec_pair, public_key, rsa_pair, verify_ecdsa, verify_pkcs1
from parameters import ecdh

from api.test_objects import certificate, certificate_template
from fuzz.bare import BareTpm
from p11tpm.attribute import TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR
from p11tpm.cli.root import p11tpm as command
from p11tpm.store.database import NAME
from p11tpm.tpm.provision import SRK_HANDLE
from p11tpm.tpm.resident import HANDLES
from rig.deadline import exit_code, fork, killed_after
from rig.process import write_secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PIN, NEW_PIN, SO_PIN, NEW_SO_PIN = b"123456", b"654321", b"so-secret", b"so-secret 2"
NEW = b"new"
OBJECTS = 8  # of the store that is there at first
NOTE = bytes(range(200)) * 20
KILL, NEVER = 0, 1 << 30  # fault.c: the kind, and a point that is not reached
SECRET = {**TOKEN, CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.LABEL: NEW}
DATA = {**TOKEN, CKA.CLASS: ulong(CKO.DATA), CKA.LABEL: NEW, CKA.VALUE: NOTE, CKA.PRIVATE: TRUE}
CERTIFICATE = {**certificate_template(certificate()), CKA.LABEL: NEW, CKA.SUBJECT: b"0\0"}
IMPORTED = ec.generate_private_key(ec.SECP256R1())
native = ctypes.CDLL(None)


class Host:
    """A run of the module with a session, in which `user` is logged in."""

    def __init__(self, module: str, user: int | None = USER, pin: bytes = PIN) -> None:
        self.run = Cryptoki(module)
        self.run.initialize()
        self.slot = self.run.slots()[0]
        if user is not None:
            self.session = self.run.open(self.slot)
            self.run.login(self.session, user, pin)

    def find(self, class_: int, label: bytes) -> list[int]:
        return self.run.find(self.session, {CKA.CLASS: ulong(class_), CKA.LABEL: label})

    def key(self, label: bytes = b"key") -> int:
        return self.find(CKO.PRIVATE_KEY, label)[0]

    # -- operations

    def init_token(self) -> None:
        self.run.init_token(self.slot, SO_PIN, "new")

    def init_pin(self) -> None:
        self.run.init_pin(self.session, NEW_PIN)

    def set_pin(self) -> None:
        self.run.set_pin(self.session, PIN, NEW_PIN)

    def set_so_pin(self) -> None:
        self.run.set_pin(self.session, SO_PIN, NEW_SO_PIN)

    def generate_ec(self) -> None:
        ec_pair(self.run, self.session, label=NEW, id_=NEW)

    def generate_rsa(self) -> None:
        rsa_pair(self.run, self.session, label=NEW, id_=NEW)

    def generate_aes(self) -> None:
        template = self.run.template({**TOKEN, CKA.LABEL: NEW, CKA.VALUE_LEN: ulong(32)})
        self.run.C_GenerateKey(self.session, self.run.mechanism(CKM.AES_KEY_GEN), *template, self.run.ulong())

    def create_data(self) -> None:
        self.run.create(self.session, DATA)

    def create_certificate(self) -> None:
        self.run.create(self.session, CERTIFICATE)

    def create_software_key(self) -> None:
        kind = {CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET), CKA.VALUE: NOTE[:32], CKA.DERIVE: TRUE}
        self.run.create(self.session, {**SECRET, **kind})

    def import_ec(self) -> None:
        scalar = IMPORTED.private_numbers().private_value.to_bytes(32, "big")
        curve = {CKA.KEY_TYPE: ulong(CKK.EC), CKA.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107"), CKA.VALUE: scalar}
        self.run.create(self.session, {**TOKEN, CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.LABEL: NEW, **curve})

    def copy(self) -> None:
        self.run.C_CopyObject(self.session, self.key(), *self.run.template({CKA.LABEL: NEW}), self.run.ulong())

    def destroy(self) -> None:
        self.run.C_DestroyObject(self.session, self.key(b"gone"))

    def set_attributes(self) -> None:
        self.run.set(self.session, self.key(b"gone"), {CKA.LABEL: NEW, CKA.ID: NEW})

    def unwrap(self) -> None:
        public = public_key(self.run, self.session, self.find(CKO.PUBLIC_KEY, b"rsa")[0])
        wrapped = public.encrypt(NOTE[:32], padding.PKCS1v15())
        kind = {**SECRET, CKA.KEY_TYPE: ulong(CKK.AES)}
        self.run.unwrap(self.session, self.key(b"rsa"), CKM.RSA_PKCS, wrapped, kind)

    def derive(self) -> None:
        numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
        point = b"\4" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        kind = {**SECRET, CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET), CKA.VALUE_LEN: ulong(32)}
        self.run.derive(self.session, self.key(), CKM.ECDH1_DERIVE, kind, ecdh(point))

    # -- what is there

    def check_all(self) -> None:
        """Read every object, and use every private key; a half object is one that cannot be read."""
        run, session = self.run, self.session
        for handle in run.find(session, {}):
            kind = run.get(session, handle, CKA.CLASS)
            run.get(session, handle, CKA.UNIQUE_ID)
            if kind == ulong(CKO.PRIVATE_KEY):
                self._sign(handle)
            elif kind == ulong(CKO.SECRET_KEY):
                run.get(session, handle, CKA.CHECK_VALUE)
            elif kind == ulong(CKO.DATA):
                assert run.get(session, handle, CKA.VALUE) == NOTE

    def _sign(self, handle: int) -> None:
        run, session = self.run, self.session
        publics = self.find(CKO.PUBLIC_KEY, run.get(session, handle, CKA.LABEL))
        is_rsa = run.get(session, handle, CKA.KEY_TYPE) == ulong(CKK.RSA)
        signature = run.sign(session, handle, CKM.SHA256_RSA_PKCS if is_rsa else CKM.ECDSA_SHA256, b"text")
        for public in publics:
            (verify_pkcs1 if is_rsa else verify_ecdsa)(public_key(run, session, public), signature, b"text", "sha256")

    def news(self) -> int:
        return len(self.run.find(self.session, {CKA.LABEL: NEW}))


class Operation:
    """What is done: by a function of a Host with `user` logged in, or by a command; `made` new objects come of it."""

    def __init__(self, do: Callable[[Host], None] | tuple[str, ...], *, made: int = 0, **more: Any) -> None:
        self.do = do
        self.made = made
        self.more: int = more.get("more", made)  # objects than before
        self.user: int | None = more.get("user", USER)
        self.pins: tuple[bytes, ...] = more.get("pins", (PIN,))
        self.so_pins: tuple[bytes, ...] = more.get("so_pins", (SO_PIN,))
        self.start: str = more.get("start", "store")
        self.before: tuple[str, ...] = more.get("before", ())
        self.weight: int = more.get("weight", 2)
        self.states: tuple[int, ...] = more.get("states", ())  # of the machine in which the token opens: before, after


RESIDENT = ("key", "resident", "key", "--pin-file", "{pin}")
BIND = ("token", "bind", "--pcr", "7", "--pin-file", "{pin}")
GONE_RESIDENT = ("key", "resident", "gone", "--pin-file", "{pin}")
OPERATIONS = {
    "C_InitToken": Operation(Host.init_token, user=None, start="nothing"),
    "C_InitToken on a TPM without a key": Operation(Host.init_token, user=None, start="bare"),
    "C_InitToken again": Operation(Host.init_token, user=None, before=RESIDENT),
    "C_InitPIN": Operation(Host.init_pin, user=SO, pins=(PIN, NEW_PIN)),
    "C_SetPIN": Operation(Host.set_pin, pins=(PIN, NEW_PIN)),
    "C_SetPIN of the SO": Operation(Host.set_so_pin, user=SO, so_pins=(SO_PIN, NEW_SO_PIN)),
    "C_GenerateKeyPair": Operation(Host.generate_ec, made=2),
    "C_GenerateKeyPair RSA": Operation(Host.generate_rsa, made=2, weight=1),
    "C_GenerateKey": Operation(Host.generate_aes, made=1),
    "C_CreateObject data": Operation(Host.create_data, made=1, weight=1),
    "C_CreateObject certificate": Operation(Host.create_certificate, made=1, weight=1),
    "C_CreateObject secret key": Operation(Host.create_software_key, made=1, weight=1),
    "C_CreateObject EC": Operation(Host.import_ec, made=1),
    "C_CopyObject": Operation(Host.copy, made=1),
    "C_DestroyObject": Operation(Host.destroy, more=-1),
    "C_DestroyObject resident": Operation(Host.destroy, more=-1, before=GONE_RESIDENT),
    "C_SetAttributeValue": Operation(Host.set_attributes, made=1, more=0, weight=1),
    "C_UnwrapKey": Operation(Host.unwrap, made=1),
    "C_DeriveKey": Operation(Host.derive, made=1),
    "init": Operation(("init", "--label", "new", "--pin-file", "{pin}"), start="nothing"),
    "key generate": Operation(("key", "generate", "--label", "new", "--pin-file", "{pin}"), made=2, weight=1),
    "key delete": Operation(
        ("key", "delete", "gone", "--yes", "--pin-file", "{pin}"), before=GONE_RESIDENT, more=-2, weight=1
    ),
    "key resident": Operation(RESIDENT),
    "key resident --undo": Operation((*RESIDENT, "--undo"), before=RESIDENT),
    "cert import": Operation(("cert", "import", "{certificate}", "--label", "new"), made=1, weight=1),
    "cert delete": Operation(("cert", "delete", "cert", "--yes"), more=-1, weight=1),
    "token create": Operation(("token", "create", "--label", "new", "--pin-file", "{pin}"), weight=1),
    "token bind": Operation(BIND, states=(0, 1), weight=3),
    "token reseal": Operation(
        ("token", "reseal", "--next", "{values}", "--pin-file", "{pin}"), before=BIND, states=(1, 2), weight=3
    ),
    "token unbind": Operation(
        ("token", "unbind", "--yes", "--pin-file", "{pin}"), before=BIND, states=(1, 0), weight=3
    ),
    "token recover": Operation(
        ("token", "recover", "--recovery-file", "{said}", "--pin-file", "{new pin}"),
        before=BIND,
        pins=(PIN, NEW_PIN),
        states=(1, 1),
        weight=3,
    ),
    "token delete": Operation(("token", "delete", "token", "--yes"), before=RESIDENT),
}


class Ground:
    """The store and the TPM that the operations work on, made once and restored before each of them."""

    def __init__(self, module: str, port: int, directory: Path) -> None:
        self.module = module
        self.tpm = BareTpm(port)
        self.store, self.pristine = directory / "store", directory / "pristine"
        self.tpm.extend(7, bytes(range(32)))
        self.words = {
            "pin": str(write_secret(directory / "pin", PIN.decode())),
            "new pin": str(write_secret(directory / "new-pin", NEW_PIN.decode())),
            "values": str(write_secret(directory / "values", f"7:sha256={'11' * 32}\n")),
            "said": str(write_secret(directory / "said", "")),
            "certificate": str(directory / "certificate"),
        }
        Path(self.words["certificate"]).write_bytes(certificate_template(certificate("other"))[CKA.VALUE])
        self._make()

    def _make(self) -> None:
        host = Host(self.module, None)
        run = host.run
        run.init_token(host.slot, SO_PIN, "token")
        host.session = session = run.open(host.slot)
        run.login(session, SO, SO_PIN)
        run.init_pin(session, PIN)
        run.logout(session)
        run.login(session, USER, PIN)
        ec_pair(run, session, private={CKA.DERIVE: TRUE})
        ec_pair(run, session, label=b"gone", id_=b"\3")
        rsa_pair(run, session)
        run.create(session, {**DATA, CKA.LABEL: b"note"})
        run.create(session, {**CERTIFICATE, CKA.LABEL: b"cert"})
        run.finalize()
        shutil.copytree(self.store, self.pristine)

    def restore(self, operation: Operation) -> None:
        """Begin with the store as it was, or with none, on a TPM that has nothing of it loaded or resident.

        Then comes what is done before the operation.
        """
        start = operation.start
        for handle in self.tpm.loaded():
            self.tpm.flush(handle)
        keys = [handle for handle in self.tpm.handles("persistent") if handle in HANDLES]
        for handle in [*keys, SRK_HANDLE] if start == "bare" else keys:
            self.tpm.evict(handle)
        shutil.rmtree(self.store, ignore_errors=True)
        if start == "store":
            shutil.copytree(self.pristine, self.store)
        if operation.before:
            assert in_new_process(functools.partial(self.command, operation.before)) == 0, operation.before

    # -- in new processes

    def command(self, words: tuple[str, ...]) -> int:
        """Run a command of p11tpm; what it prints, such as a recovery code, another command may read from a file."""
        said, null = Path(self.words["said"]), Path(os.devnull)
        with (said if words == BIND else null).open("w") as file, contextlib.redirect_stdout(file):
            return command.main([word.format(**self.words) for word in words], standalone_mode=False) or 0

    def work(self, operation: Operation, point: int) -> int:
        """Do the operation up to a point, and give the number of points that it has had."""
        if isinstance(operation.do, tuple):
            act = functools.partial(self.command, operation.do)
        else:
            pin = SO_PIN if operation.user == SO else PIN
            act = functools.partial(operation.do, Host(self.module, operation.user, pin))
        native.fault_arm(point, KILL)
        act()
        seen = native.fault_seen()
        native.fault_arm(-1, KILL)
        return seen

    def look(self, operation: Operation) -> str:
        """Return what is there, with a fresh eye: "old" or "new". AssertionError or Rv for anything else."""
        assert self.tpm.guesses() == 0, "the TPM has counted a wrong PIN"
        if operation.start == "store":
            self._check_file()
        found = self._state(operation)
        begun = time.monotonic()
        self._write(operation, found)
        assert time.monotonic() - begun < 60, "the next write took too long"
        self._check_residents()
        return found

    def _check_file(self) -> None:
        with closing(sqlite3.connect(self.store / NAME)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
            assert db.execute("SELECT * FROM failure").fetchall() == [], "a wrong PIN is counted"

    def _tokens(self) -> list[str]:
        if not (self.store / NAME).exists():
            return []
        with closing(sqlite3.connect(self.store / NAME)) as db:
            if not db.execute("PRAGMA user_version").fetchone()[0]:
                return []
            return [label for (label,) in db.execute("SELECT label FROM token ORDER BY id")]

    def _state(self, operation: Operation) -> str:
        """Log in with the one PIN that is right, and look at every object."""
        labels = self._tokens()
        if "token" not in labels:
            assert labels in ([], ["new"]), labels
            made = labels if operation.start != "store" or operation.do == Host.init_token else not labels
            if labels and operation.do == Host.init_token:
                Host(self.module, SO, SO_PIN).run.finalize()
            elif labels:
                host = Host(self.module)
                host.check_all()
                assert len(host.run.find(host.session, {})) in {0, 2}
                host.run.finalize()
            return "new" if made else "old"
        assert self._right(SO, operation.so_pins) is not None
        pin = self._right(USER, operation.pins)
        host = Host(self.module, USER, pin)
        host.check_all()
        news, objects = host.news(), len(host.run.find(host.session, {}))
        host.run.finalize()
        assert news in {0, operation.made}, f"{news} new objects"
        assert objects in self._allowed(operation), f"{objects} objects"
        return "new" if self._is_new(operation, labels, pin, news, objects) else "old"

    @staticmethod
    def _allowed(operation: Operation) -> set[int]:
        """Return the numbers of objects that there may be: before, and after."""
        return {OBJECTS, OBJECTS + operation.more}

    def _is_new(self, operation: Operation, labels: list[str], pin: bytes, news: int, objects: int) -> bool:
        if isinstance(operation.do, tuple) and operation.do[:2] == RESIDENT[:2]:
            return self._is_resident() != ("--undo" in operation.do)
        if operation.states:
            states = self._states()
            assert states in operation.states, f"{states} states"
            return states == operation.states[1] and (pin == NEW_PIN or NEW_PIN not in operation.pins)
        changed = news or objects != OBJECTS or "new" in labels or pin == NEW_PIN
        return bool(changed) or self._right(SO, operation.so_pins) == NEW_SO_PIN

    def _states(self) -> int:
        with closing(sqlite3.connect(self.store / NAME)) as db:
            ((policy,),) = db.execute("SELECT policy FROM token")
        return len(policy.splitlines())

    def _is_resident(self) -> bool:
        with closing(sqlite3.connect(self.store / NAME)) as db:
            return db.execute("SELECT 1 FROM object WHERE resident != 0").fetchone() is not None

    def _right(self, user: int, pins: tuple[bytes, ...]) -> bytes:
        """Return the PIN of a role: exactly one is right."""
        right = []
        for pin in pins:
            try:
                Host(self.module, user, pin).run.finalize()
                right.append(pin)
            except Rv as error:
                Cryptoki(self.module).finalize()
                if error.rv != CKR.PIN_INCORRECT:
                    raise
        self.tpm.forget_guesses()
        assert len(right) == 1, f"{len(right)} of {len(pins)} PINs are right"
        return right[0]

    def _write(self, operation: Operation, found: str) -> None:
        """Do it again if it was not done, else something else, as the user would."""
        if found == "old":
            operation_again = Operation(operation.do, user=operation.user)
            self.work(operation_again, NEVER)
            Cryptoki(self.module).finalize()
        elif "token" in self._tokens():
            host = Host(self.module, USER, self._right(USER, operation.pins))
            host.create_data()
            host.run.finalize()

    def _check_residents(self) -> None:
        """The TPM has no key of which the store does not know, once the key that it may be of is gone."""
        there = {handle for handle in self.tpm.handles("persistent") if handle in HANDLES}
        known: set[int] = set()
        if self._tokens():
            with closing(sqlite3.connect(self.store / NAME)) as db:
                known = {handle for (handle,) in db.execute("SELECT resident FROM object")}
        assert there <= known, f"{there - known} in the TPM, and not in the store"


def in_new_process(work: Callable[[], Any], killer: Callable[[int], None] = lambda _pid: None) -> Any:
    """Return what `work` answers in a forked process, or what it raised as text; None if that was killed."""
    ours, theirs = os.pipe()

    def tell() -> None:
        os.close(ours)
        try:
            answer = work()
        except BaseException as error:  # noqa: BLE001 - the parent prints it
            answer = f"fault: {type(error).__name__}: {error}"
        os.write(theirs, pickle.dumps(answer))

    child = fork(tell)
    os.close(theirs)
    killer(child)
    with killed_after(child), open(ours, "rb") as pipe:  # noqa: PTH123 - a descriptor has no path
        content = pipe.read()
    ended = exit_code(child)
    if ended == -signal.SIGKILL:
        return None
    return pickle.loads(content) if content else f"fault: ended by {ended}"


def after(seconds: float) -> Callable[[int], None]:
    """Return what kills a process at a moment that has nothing to do with what it does."""

    def kill(pid: int) -> None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)

    return kill


def main(module: str, port: int, directory: Path, kills: int, seed: int) -> None:
    """Kill hosts at chosen points of each operation, and one of each at any time."""
    dice = random.Random(seed)
    ground = Ground(module, port, directory)  # this process has begun and ended a run then: its children begin faster
    total = sum(operation.weight for operation in OPERATIONS.values())
    for name, operation in OPERATIONS.items():
        ground.restore(operation)
        begun = time.monotonic()
        points = in_new_process(lambda operation=operation: ground.work(operation, NEVER))
        seconds = time.monotonic() - begun
        if not isinstance(points, int):
            print(name, "-", points, sep="|", flush=True)  # noqa: T201 - the test reads it
            continue
        count = min(points, -(-kills * operation.weight // total))
        for point in [None, *sorted(dice.sample(range(points), count))]:
            ground.restore(operation)
            work = functools.partial(ground.work, operation, NEVER if point is None else point)
            moment = dice.uniform(0, seconds)
            ended = in_new_process(work, after(moment) if point is None else lambda _pid: None)
            for handle in ground.tpm.loaded():
                ground.tpm.flush(handle)
            found = in_new_process(functools.partial(ground.look, operation))
            ground.tpm.forget_guesses()
            if point is not None and ended is not None:
                found = f"fault: not killed: {ended}"
            print(name, f"{point} of {points}", found, sep="|", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
