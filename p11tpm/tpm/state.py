"""States of the machine in which a token opens or a key works, and their text in the store.

A text has a line for each state. A line has words, in this order, each of which may be missing:
``signed=KEY:PCRS:REF``  any values of PCRs such as ``11`` or ``11+12`` that a key signed: its TPMT_PUBLIC, and the text
behind policyRef, both in hexadecimal
``pcr=7:VALUE,14:VALUE``  these values of PCRs in the bank of SHA-256, in hexadecimal
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
    """The states of the machine that are good: a key that signs PCRs, values of other PCRs, or both.

    All states have the same key and select the same PCRs; `alternatives` are their values, {} if there is only a key.
    """

    __slots__ = ("alternatives", "signed")

    def __init__(self, signed: Signed | None, alternatives: Iterable[dict[int, bytes]]) -> None:
        self.signed = signed
        self.alternatives = [dict(sorted(values.items())) for values in alternatives]

    @property
    def pcrs(self) -> tuple[int, ...]:
        """The PCRs whose values are known."""
        return tuple(self.alternatives[0])

    def digests(self, *, pin: bool) -> tuple[bytes, ...]:
        """Return the policy of each state; with `pin` the authorisation value has to be known as well."""
        signed = self.signed
        start = policy.authorized(signed.public, policy.policy_ref(signed.ref)) if signed else policy.START
        every = [policy.pcr(start, values) if values else start for values in self.alternatives]
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
        return words

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
        if any(line.keys() - {"signed", "pcr"} or not line for line in lines):
            raise ValueError("a word that is not known")
        if len({line.get("signed") for line in lines}) != 1:
            raise ValueError("several keys")
        alternatives = [_values(line["pcr"]) if "pcr" in line else {} for line in lines]
        if len(alternatives) > MOST_STATES or len({tuple(values) for values in alternatives}) != 1:
            raise ValueError("states that differ in their PCRs")
        return cls(_signed(lines[0]["signed"]) if "signed" in lines[0] else None, alternatives)


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
