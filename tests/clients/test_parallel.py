"""An ssh-agent, a step-ca and an nginx at work at the same time with keys of one token in one TPM behind tpm2-abrmd.

P11TPM_SOAK is for how many seconds (20).
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

import rig
from clients import test_openssh as openssh
from clients import test_stepca as stepca
from rig.caclient import CaClient, Order
from rig.debian_nginx import VERSIONS, DebianNginx
from rig.errors import Errors
from rig.process import wait_until
from rig.stepca import StepCa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = float(os.environ.get("P11TPM_SOAK", "20"))
pytestmark = pytest.mark.timeout(600 + SECONDS)  # the first of them may have to make step-ca
KEYS = {"ssh": "p256", "intermediate": "p384"}
AT_ONCE = 3  # clients of each
MOST_GROWTH = 4  # MiB
# MiB for each thing done: without a database, step-ca remembers each one-time token (its db/simple.go), with any key
REMEMBERED = {"logins": 0, "certificates": 2 / 1024, "handshakes": 0}


class Work:
    """What is done again and again until the time is over; `errors` are those that kept it from that."""

    def __init__(self) -> None:
        self._took: list[float] = []
        self.errors: list[str] = []

    def until(self, end: float, once: Callable[[], None]) -> None:
        while (start := time.monotonic()) < end:
            try:
                once()
            except Exception as error:  # noqa: BLE001 - whatever it is, it should not have been
                self.errors.append(repr(error))
                return
            self._took.append(time.monotonic() - start)

    @property
    def done(self) -> int:
        return len(self._took)

    def __str__(self) -> str:
        return f"{self.done} done, the longest in {max(self._took, default=0):.1f} s, {len(self.errors)} errors"


class Logins:
    """An agent that has the user's keys, and an sshd that takes one of them."""

    def __init__(self, user: rig.User, directory: Path, stack: ExitStack) -> None:
        self._user = user
        self._sshd = stack.enter_context(rig.Sshd())
        self._agent = stack.enter_context(openssh.start_agent(user))
        openssh.add(self._agent, user)
        key = openssh.public_file(user, "ssh", directory)
        self._sshd.authorize(key.read_text())
        self._chosen = ("-o", f'IdentityFile="{key}"', "-o", "IdentitiesOnly=yes", *openssh.by_agent(self._agent))

    def once(self) -> None:
        openssh.check_welcome(self._sshd.login(*openssh.QUICK, *self._chosen, env=self._user.env))

    def processes(self) -> list[int]:
        return [int(entry.name) for entry in self._agent.helpers()]

    def check_silent(self) -> None:
        openssh.check_silent(self._agent)


class Certificates:
    """A step-ca, and clients that want certificates by one-time tokens."""

    def __init__(self, user: rig.User, directory: Path, stack: ExitStack) -> None:
        self._ca = stack.enter_context(StepCa(stepca.prepared(user, directory), user.env, directory)).ready()
        self._issuer = x509.load_pem_x509_certificate((directory / "intermediate.crt").read_bytes())
        self._order = Order("web.example.com")
        self._local = threading.local()
        self._serials: set[int] = set()

    def _client(self) -> CaClient:
        if not hasattr(self._local, "client"):
            self._local.client = self._ca.client()
        return self._local.client

    def once(self) -> None:
        leaf = x509.load_pem_x509_certificate(self._client().sign(self._order, stepca.OFFICE)[0].encode())
        leaf.verify_directly_issued_by(self._issuer)
        assert leaf.public_key() == self._order.key.public_key()
        assert leaf.serial_number not in self._serials
        self._serials.add(leaf.serial_number)

    def processes(self) -> list[int]:
        return [self._ca.process.pid]

    def check_silent(self) -> None:
        stepca.check_silent(self._ca)


class Handshakes:
    """An nginx, and clients that take part of no earlier connection."""

    def __init__(self, user: rig.User, directory: Path, stack: ExitStack) -> None:
        self._nginx = DebianNginx(user, directory, "rsa2048")
        stack.callback(self._nginx.stop)
        self._nginx.start()
        self._versions = cycle(VERSIONS)

    def once(self) -> None:
        self._nginx.get(next(self._versions))

    def processes(self) -> list[int]:
        return [self._nginx.master(), *self._nginx.workers()]

    def check_silent(self) -> None:
        lines = self._nginx.said().splitlines()
        assert [line for line in lines if "index.html" not in line] == []  # it has nothing to show


Client = Logins | Certificates | Handshakes
KINDS = {"logins": Logins, "certificates": Certificates, "handshakes": Handshakes}


def memory(processes: list[int]) -> float:
    """What all have in memory that is neither a file's nor shared, in MiB (proc(5))."""
    lines = [line for pid in processes for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def noise(client: Client) -> str:
    """What is in the client's log that does not belong there."""
    try:
        client.check_silent()
    except AssertionError as error:
        return str(error)
    return ""


class Together:
    """All of them at work for some seconds, and what was to be seen of it when they had ended.

    `memory` is that of each after a quarter of the time and at its end, in MiB.
    """

    def __init__(self, user: rig.User, tpm: rig.Tabrmd, seconds: float) -> None:
        self.tpm = tpm.swtpm
        errors = Errors(user)
        new_keys(user)
        self.works = {name: Work() for name in KINDS}
        self._clients: dict[str, Client] = {}
        with ExitStack() as stack:
            for name in KINDS:
                self._start(name, user, stack)
            self.memory = self._run(seconds)
            self.noise = {name: noise(client) for name, client in self._clients.items()}
        self.noise["p11tpm"] = "\n".join(errors.lines())

    def _start(self, name: str, user: rig.User, stack: ExitStack) -> None:
        directory = user.directory / name
        directory.mkdir()
        try:
            self._clients[name] = KINDS[name](user, directory, stack)
        except ChildProcessError as error:  # tpm2-pkcs11 does not help nginx, but the others can go on
            self.works[name].errors.append(str(error))

    def _run(self, seconds: float) -> dict[str, tuple[float, float]]:
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(AT_ONCE * len(self._clients)) as pool:
            for name, client in list(self._clients.items()) * AT_ONCE:
                pool.submit(self.works[name].until, end, client.once)
            time.sleep(seconds / 4)
            before = self._memory()
        return {name: (before[name], now) for name, now in self._memory().items()}

    def _memory(self) -> dict[str, float]:
        return {name: memory(client.processes()) for name, client in self._clients.items()}


def new_keys(user: rig.User) -> None:
    """A token with the keys of ssh and of the CA; nginx's comes with its recipe."""
    user.create_token()
    for label, algorithm in KEYS.items():
        user.generate(algorithm, label)
    for settings in user.directory.glob("*.conf"):
        settings.chmod(0o644)  # for nginx's workers, who are www-data


@pytest.fixture(scope="module")
def together(new_user: type[rig.User]) -> Iterator[Together]:
    with rig.Tabrmd(max_tries=32) as tpm, tempfile.TemporaryDirectory(prefix="p11tpm-parallel-") as name:
        tpm.swtpm.directory.chmod(0o711)
        directory = Path(name)
        directory.chmod(0o755)
        yield Together(new_user(tpm, directory), tpm, SECONDS)


@pytest.mark.parametrize("what", KINDS)
def test_no_errors(together: Together, what: str) -> None:
    work = together.works[what]
    print(f"{what}: {work}")  # noqa: T201
    assert work.errors == []
    assert work.done > SECONDS / 4


def test_silence(together: Together) -> None:
    assert {name: text for name, text in together.noise.items() if text} == {}


def test_nothing_left_in_the_tpm(together: Together) -> None:
    wait_until(lambda: together.tpm.loaded() == [], "tpm2-abrmd flushing what was left", 5)
    assert together.tpm.lockout_counter() == 0


@pytest.mark.parametrize("what", KINDS)
def test_memory(together: Together, what: str) -> None:
    before, now = together.memory[what]
    print(f"{what}: {before:.1f} MiB, then {now:.1f} MiB")  # noqa: T201
    assert 0 < now < before + MOST_GROWTH + REMEMBERED[what] * together.works[what].done
