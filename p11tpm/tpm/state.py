"""States of the machine in which a token opens or a key works, and their text in the store.

A token has values of PCRs, which can be sealed anew; a key, whose policy is for ever, has all else.

A text has a line for each state. A line has words, in this order, each of which may be missing:
``signed=KEY:PCRS:REF``  any values of PCRs such as ``11`` or ``11+12`` that a key signed: its TPMT_PUBLIC, and the text
behind policyRef, both in hexadecimal
``pcr=7:VALUE,14:VALUE``  these values of PCRs in the bank of SHA-256, in hexadecimal
``reset=N``  the boot in which the TPM's resetCount is N
``clock=N``  as long as the TPM's clock is below N, in milliseconds
The word ``nv=`` is reserved. The text is a recipe for policy sessions: what counts is the policy in the object itself.
"""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.tpm import policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

MOST_STATES = 6  # PolicyOR takes eight policies, of which two change the PIN
PCRS = range(24)
_RESET_IS, _CLOCK_IS_BELOW = (16, 0), (8, 5)  # offset in TPMS_TIME_INFO, and TPM_EO: Part 2, clauses 10.11.6 and 6.8
VALUE_SIZE = 32  # bytes of a PCR in the bank of SHA-256


class Signed:
    """Any values of PCRs that a key signed. `public` is the key's TPMT_PUBLIC, `ref` the text behind policyRef."""

    __slots__ = ("pcrs", "public", "ref")

    def __init__(self, public: bytes, pcrs: tuple[int, ...], ref: str = "") -> None:
        self.public = public
        self.pcrs = pcrs
        self.ref = ref

    def __str__(self) -> str:
        return f"signed={self.public.hex()}:{written(self.pcrs)}:{self.ref.encode().hex()}"


class States:
    """The states of the machine that are good: a key that signs PCRs, values of other PCRs, a boot, or some of these.

    All states have the same key and select the same PCRs; `alternatives` are their values, {} for any. `reset` is the
    boot, `clock` the end, as the TPM counts both.
    """

    __slots__ = ("alternatives", "clock", "reset", "signed")

    def __init__(
        self,
        signed: Signed | None = None,
        alternatives: Iterable[dict[int, bytes]] = ({},),
        reset: int | None = None,
        clock: int | None = None,
    ) -> None:
        self.signed = signed
        self.alternatives = [dict(sorted(values.items())) for values in alternatives]
        self.reset = reset
        self.clock = clock

    @property
    def times(self) -> list[tuple[bytes, int, int]]:
        """What the TPM's counters have to compare with, each as operand, offset and operation."""
        boot = [] if self.reset is None else [(self.reset.to_bytes(4, "big"), *_RESET_IS)]
        return boot + ([] if self.clock is None else [(self.clock.to_bytes(8, "big"), *_CLOCK_IS_BELOW)])

    @property
    def pcrs(self) -> tuple[int, ...]:
        """The PCRs whose values are known."""
        return tuple(self.alternatives[0])

    def digests(self, *, pin: bool) -> tuple[bytes, ...]:
        """Return the policy of each state; with `pin` the authorisation value has to be known as well."""
        signed = self.signed
        start = policy.authorized(signed.public, policy.policy_ref(signed.ref)) if signed else policy.START
        every = [policy.pcr(start, values) if values else start for values in self.alternatives]
        for time in self.times:
            every = [policy.counter_timer(one, *time) for one in every]
        return tuple(policy.auth_value(one) if pin else one for one in every)

    def differing(self, present: dict[int, bytes]) -> list[int]:
        """Return the PCRs that are not as in the state that is next to the present one."""
        every = [[pcr for pcr, value in values.items() if present.get(pcr) != value] for values in self.alternatives]
        return min(every, key=len)

    def __str__(self) -> str:
        return "\n".join(" ".join(self._words(values)) for values in self.alternatives)

    def _words(self, values: dict[int, bytes]) -> list[str]:
        words = [str(self.signed)] if self.signed else []
        if values:
            words.append("pcr=" + ",".join(f"{pcr}:{value.hex()}" for pcr, value in values.items()))
        words += [] if self.reset is None else [f"reset={self.reset}"]
        return words + ([] if self.clock is None else [f"clock={self.clock}"])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a store; CKR_DEVICE_ERROR for one that this package did not write."""
        try:
            return cls._parse(text)
        except ValueError:
            raise Error(CKR.DEVICE_ERROR, "the store says nothing sensible of a state: restore it") from None

    @classmethod
    def _parse(cls, text: str) -> Self:
        lines = [dict(word.split("=", 1) for word in line.split(" ")) for line in text.split("\n")]
        if any(line.keys() - {"signed", "pcr", "reset", "clock"} or not line for line in lines):
            raise ValueError("a word that is not known")
        if len({(line.get("signed"), line.get("reset"), line.get("clock")) for line in lines}) != 1:
            raise ValueError("several keys, or several ends")
        alternatives = [_values(line["pcr"]) if "pcr" in line else {} for line in lines]
        if len(alternatives) > MOST_STATES or len({tuple(values) for values in alternatives}) != 1:
            raise ValueError("states that differ in their PCRs")
        line = lines[0]
        return cls(
            _signed(line["signed"]) if "signed" in line else None,
            alternatives,
            _below(line["reset"], 32) if "reset" in line else None,
            _below(line["clock"], 64) if "clock" in line else None,
        )


def _below(text: str, bits: int) -> int:
    """Read a number of so many bits; ValueError."""
    if not (text.isascii() and text.isdigit() and int(text) >> bits == 0):
        raise ValueError(text)
    return int(text)


def _signed(word: str) -> Signed:
    public, pcrs, ref = word.split(":")
    return Signed(bytes.fromhex(public), read(pcrs), bytes.fromhex(ref).decode())


def _values(word: str) -> dict[int, bytes]:
    pairs = [one.split(":") for one in word.split(",")]
    values = {number(pcr): bytes.fromhex(value) for pcr, value in pairs}
    if any(len(value) != VALUE_SIZE for value in values.values()):
        raise ValueError("a value that no PCR has")
    return dict(sorted(values.items()))


def number(text: str) -> int:
    """Read the number of a PCR; ValueError if there is no such one."""
    if not (text.isascii() and text.isdigit() and int(text) in PCRS):
        raise ValueError(text)
    return int(text)


def read(text: str) -> tuple[int, ...]:
    """Read numbers of PCRs, written as ``7+14``, in ascending order; ValueError for what is none."""
    return tuple(sorted({number(word) for word in text.split("+")}))


def written(pcrs: Iterable[int]) -> str:
    """Write numbers of PCRs as `read` reads them."""
    return "+".join(map(str, pcrs))
