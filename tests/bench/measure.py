"""The measurements: rounds in which the products take turns on the same TPM."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from core import ALL, cores
from latency import Latency
from limit import KEYS, Limit
from product import P11tpm, Tpm2Pkcs11, key
from program import STEPS, BenchError, Host
from samples import Samples

import rig
from p11tpm.ck import CKA, CKO
from p11tpm.tpm import Key, template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from product import Product
    from yardstick import Yardstick

    from p11tpm.core.token import Token

SIZES = (1, 100, 1_000, 10_000)  # keys in a store
OURS, PEER, LIMIT, PYTHON = P11tpm.name, Tpm2Pkcs11.name, "limit", "Python"
CALLS = ("session-info", "attribute", "slot-list", "token-info", "mechanism-list", "mechanism-info", "digest")
THREADS = (1, 2, 4, 8)
TURNS = (8, 16)
COMPARED = ("threads 8", "turn 8")
KIND_NAMES = {"p256": key(0), "p384": "p384", "rsa": "rsa"}
MANY = 10_000  # signatures
IDLE_SECONDS = 10.5


class Measure:
    """Everything that is measured on one TPM, where each product has its stores; the results are in `samples`."""

    def __init__(self, tpm: rig.Swtpm, products: list[Product], yardstick: Yardstick) -> None:
        self.tpm = tpm
        self.products = products
        self.yardstick = yardstick
        self.samples = Samples()
        self.commands: dict[tuple[str, str], list[str]] = {}
        self.failed: set[str] = set()
        self._limit = Limit(tpm)

    @property
    def with_tpm(self) -> list[Product]:
        return [product for product in self.products if product.name in {OURS, PEER}]

    def prepare(self) -> None:
        """Make the stores: `one` has a single key, `many` has sixteen and one of each other kind, `one-N` has N."""
        sixteen = [("p256", key(index)) for index in range(max(TURNS))]
        for product in self.products:
            product.make(self.tpm, "one", [("p256", key(0))])
            product.make(self.tpm, "many", [*sixteen, ("p384", "p384"), ("rsa", "rsa")])
            for size in _sizes(product)[1:]:
                product.copy(self.tpm, "one", size)

    # -- from the start

    def starts(self, rounds: int = 20) -> None:
        """Process start to first signature, and each step of it, by size of the store."""
        for number in range(rounds):
            took, memory = self.yardstick.start()
            self.samples.add("bare start", PYTHON, took)
            self.samples.add("bare memory", PYTHON, memory)
            for size in SIZES:
                for product in self.products:
                    few = size == max(SIZES) and product.name != OURS and number >= 3  # it takes the others too long
                    if size in _sizes(product) and not few:
                        self._start(f"start {size}", product, self.tpm, _store(size))

    def models(self, rounds: int = 5) -> None:
        """The same with a single key on a slow TPM, directly and behind Linux' resource manager."""
        for managed, figure in ((False, "start discrete"), (True, "start tpmrm0")):
            with rig.CountingProxy(self.tpm) as proxy:
                latency = Latency(proxy, managed=managed)
                for product in self.with_tpm * rounds:
                    latency.reset()
                    self._start(figure, product, proxy, "one")

    def _start(self, figure: str, product: Product, tpm: rig.Swtpm | rig.CountingProxy, store: str) -> None:
        for step, value in product.first(tpm, store).items():
            self.samples.add(f"{figure} {step}", product.name, value)

    # -- what a process does over and over

    @contextlib.contextmanager
    def _hosts(self, store: str, products: list[Product] | None = None) -> Iterator[dict[str, Host]]:
        """Return a logged-in process of each product by name."""
        with contextlib.ExitStack() as stack:
            chosen = self.products if products is None else products
            hosts = {one.name: stack.enter_context(one.host(self.tpm, store)).open() for one in chosen}
            yield hosts
            for host in hosts.values():
                host.ask("close")

    def signatures(self, kind: str, count: int, processes: int = 5, rounds: int = 5) -> None:
        """First and next signature."""
        name = KIND_NAMES[kind]
        for _ in range(processes):
            with self._hosts("many") as hosts:
                for product, host in hosts.items():
                    self._times(f"first {kind}", product, host, f"sign {kind} {name} 1")
                for _ in range(rounds):
                    for product, host in hosts.items():
                        self._times(f"next {kind}", product, host, f"sign {kind} {name} {count}")
                    if kind in KEYS:
                        self.samples.add(f"next {kind}", LIMIT, self._limit.sign(host, kind, count))

    def calls(self, count: int = 100, rounds: int = 15) -> None:
        """Random numbers, and what needs no TPM."""
        with self._hosts("many") as hosts:
            for _ in range(rounds):
                self.samples.add("empty call", PYTHON, self.yardstick.call(count))
                for call in ("random", *CALLS):
                    for product, host in hosts.items():
                        self._times(call, product, host, f"call {call} {count}")

    def finds(self, rounds: int = 10) -> None:
        """Searches by CKA_ID and by CKA_LABEL, by size of the store."""
        for size in SIZES:
            chosen = [product for product in self.products if size in _sizes(product)]
            with self._hosts(_store(size), chosen) as hosts:
                for _ in range(rounds):
                    self.samples.add("empty call", PYTHON, self.yardstick.call(100))
                    for product, host in hosts.items():
                        count = 50 if product == OURS or size <= 100 else 5
                        for by in ("id", "label"):
                            self._times(f"find {by} {size}", product, host, f"find {by} {size} {count}")

    def _times(self, figure: str, product: str, host: Host, command: str) -> None:
        """Keep the lower quartile of a command's times, unless it is something that the product cannot do."""
        told = host.ask(command)
        if not told["errors"]:
            self.samples.add(figure, product, told["low"])

    def core(self, count: int = 20, rounds: int = 5) -> None:
        """Key agreement and decryption, which are there at the level of the TPM only."""
        ours = next(product for product in self.products if isinstance(product, P11tpm))
        with ours.token(self.tpm, "many") as (token, _):
            pair, rsa = (_loadable(token, name) for name in (key(0), "rsa"))
            point = template.ec_point(pair.public)
            for _ in range(rounds):
                agreed = sorted(_time(lambda: token.tpm.tpm.ecdh(pair, point)) for _ in range(count))
                self.samples.add("core ecdh", OURS, agreed[count // 4])
                decrypted = sorted(_time(lambda: token.tpm.tpm.rsa(rsa, b"\x11" * 256)) for _ in range(count))
                self.samples.add("core decrypt", OURS, decrypted[count // 4])

    # -- several keys

    def several(self, count: int = 25, rounds: int = 8) -> None:
        """Several threads with a key each, and several keys in turn: signatures a second, and failures."""
        asked = {f"threads {threads}": f"threads {threads} {count}" for threads in THREADS}
        asked |= {f"turn {keys}": f"turn {keys} {count // 5}" for keys in TURNS}
        for number in range(3 * rounds):
            for figure, command in asked.items():
                for product in self.products:
                    # ours are compared with each other on all cores, where other programs disturb most
                    if number < rounds or (product.name == OURS and figure in COMPARED):
                        self._throughput(figure, product, command)

    def _throughput(self, figure: str, product: Product, command: str) -> None:
        with cores(ALL), product.host(self.tpm, "many").open() as host:
            told = host.ask(command)
            host.ask("close")
        if told["errors"]:
            self.failed.add(f"{product.name}, {figure}: {told['rv']:#x}")
            self.tpm.flush()  # what a process leaves that could not go on
        good = told["count"] - told["errors"]
        self.samples.add(f"{figure} time", product.name, told["total"] / good if good else float("inf"))
        self.samples.add(f"{figure} errors", product.name, told["errors"] / told["count"])

    # -- what is left

    def growth(self) -> None:
        """Memory (KiB) that many signatures add."""
        for product in self.products:
            with self._hosts("one", [product]) as hosts:
                host = hosts[product.name]
                part = f"sign p256 {key(0)} {MANY // 10}"  # the host's own list of times is as long each time
                sizes = [(host.ask(part), host.ask("memory"))[1]["memory"] for _ in range(12)]
                self.samples.add("growth", product.name, sizes[-1] - sizes[1])

    @contextlib.contextmanager
    def idling(self) -> Iterator[None]:
        """Meanwhile a process of each product does nothing, on a TPM of its own; then see what it holds there."""
        with contextlib.ExitStack() as stack:
            resting = []
            for product in self.with_tpm:
                tpm = stack.enter_context(rig.Swtpm(32))
                product.make(tpm, "idle", [("p256", key(0))])
                host = stack.enter_context(product.host(tpm, "idle")).open()
                host.ask(f"sign p256 {key(0)} 1")
                if not tpm.loaded():
                    raise BenchError(f"{product.name} holds nothing after a signature: the check would show nothing")
                resting.append((product.name, tpm, host))
            since = time.monotonic()
            yield
            time.sleep(max(0.0, since + IDLE_SECONDS - time.monotonic()))
            for name, tpm, host in resting:
                self.samples.add("idle", name, len(tpm.loaded()))
                if host.ask(f"sign p256 {key(0)} 1")["errors"]:
                    raise BenchError(f"{name} cannot sign after a pause")
                host.ask("close")

    def count_commands(self) -> None:
        """TPM commands of each step, seen on the wire."""
        steps = {step: step for step in STEPS}
        steps |= {"find": "find id 1 1", "first": f"sign p256 {key(0)} 1", "next": f"sign p256 {key(0)} 1"}
        steps |= {"random": "call random 1", "generate": "generate p256 new", "close": "close"}
        for product in self.with_tpm:
            scratch = product.copy(self.tpm, "one", 2)
            with rig.CountingProxy(self.tpm) as proxy, product.host(proxy, scratch) as host:
                for step, command in steps.items():
                    proxy.clear()
                    host.ask(command)
                    self.commands[step, product.name] = proxy.names
            self.tpm.flush()


def _loadable(token: Token, name: str) -> Key:
    found = token.objects.find({CKA.ID: name.encode(), CKA.CLASS: CKO.PRIVATE_KEY.to_bytes(8, "little")})
    record = token.objects.record(found[0])
    return Key(record.uuid, record.tpm_public, record.tpm_private, token.tpm.secret.auth(record.uuid))


def _time(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1e6


def _sizes(product: Product) -> tuple[int, ...]:
    return tuple(size for size in SIZES if size <= product.most_keys)


def _store(size: int) -> str:
    return "one" if size == 1 else f"one-{size}"
