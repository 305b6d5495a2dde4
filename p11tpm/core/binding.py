"""What binds a token to the state of the machine: its secret opens in some states only, or by a recovery code."""

from __future__ import annotations

from posix import urandom

from p11tpm.ck import CKR
from p11tpm.core.pcr_signature import PcrSignatures
from p11tpm.crypto import hashes
from p11tpm.error import POLICY_REFUSALS, TPM, Error, StateError, TpmError
from p11tpm.tpm import Blob, bound, command, policy, provision, state, template
from p11tpm.tpm.bound import Approval, Condition
from p11tpm.tpm.state import States

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from p11tpm.host.config import Config
    from p11tpm.store import Store, TokenRow
    from p11tpm.tpm import Tpm
    from p11tpm.tpm.state import Signed

_CODE_SIZE = 16  # bytes of a recovery code
_GROUP = 4  # of its hexadecimal digits
_UNMEASURED = (bytes(state.VALUE_SIZE), b"\xff" * state.VALUE_SIZE)  # after a reset, and where no firmware measures
_NOTHING = Blob(b"", b"")


class Wish:
    """What a token is to be bound to: a key that signs values of PCRs, the present values of other PCRs, or both.

    `others` are values that shall be good as well: a mapping for each state, in which a PCR may be missing that keeps
    its present value. Neither key nor PCRs: the token is not bound. `code` is the recovery code, if there is to be one.
    """

    __slots__ = ("code", "others", "pcrs", "signed")

    def __init__(
        self,
        pcrs: tuple[int, ...] = (),
        signed: Signed | None = None,
        others: Sequence[dict[int, bytes]] = (),
        *,
        code: str | None = None,
    ) -> None:
        self.pcrs = pcrs
        self.signed = signed
        self.others = others
        self.code = code

    @classmethod
    def same(cls, row: TokenRow, others: Sequence[dict[int, bytes]] = ()) -> Wish:
        """Return the wish to have a token bound to the same as now; CKR_ARGUMENTS_BAD for one that is not bound."""
        if not row.policy:
            raise Error(CKR.ARGUMENTS_BAD, f"token '{row.label}' is not bound to anything: 'p11tpm token bind' does so")
        states = States.parse(row.policy)
        foreign = sorted({pcr for values in others for pcr in values} - set(states.pcrs))
        if foreign:
            there = f"only to {state.written(states.pcrs)}" if states.pcrs else "to no value of a PCR"
            what = f"token '{row.label}' is bound {there}, not to PCR {state.written(foreign)}"
            raise Error(CKR.ARGUMENTS_BAD, f"{what}: leave out what it is not bound to, or bind it anew")
        return cls(states.pcrs, states.signed, others)

    def states(self, tpm: Tpm) -> States:
        """Return the states, the present one first; CKR_ARGUMENTS_BAD for a PCR into which nothing is measured."""
        present = bound.read_pcrs(tpm, self.pcrs)
        for pcr in self.pcrs:
            value = present.get(pcr)
            if value is None:
                raise Error(CKR.ARGUMENTS_BAD, f"this TPM has no PCR {pcr} in the bank of SHA-256: choose another one")
            if value in _UNMEASURED:
                what = "ones" if value[0] else "zeros"
                why = f"PCR {pcr} (sha256) is all {what}: nothing is measured there, choose another one"
                raise Error(CKR.ARGUMENTS_BAD, why)
        every = [present]
        for values in self.others:
            if (one := present | values) not in every:
                every.append(one)
        if len(every) > state.MOST_STATES:
            why = f"{len(every)} states, with the present one: a token can be bound to {state.MOST_STATES}"
            raise Error(CKR.ARGUMENTS_BAD, why)
        return States(self.signed, every)


def new_code() -> str:
    """Make a recovery code: 128 random bits, as hexadecimal digits in groups."""
    digits = urandom(_CODE_SIZE).hex()
    return "-".join(digits[at : at + _GROUP] for at in range(0, len(digits), _GROUP))


def _recovery_auth(row: TokenRow, code: str) -> bytes:
    """Return the authorisation value for a recovery code, however its digits are grouped and written."""
    digits = "".join(code.split()).replace("-", "").lower()
    text = b"RECOVERY|" + row.uuid + b"|" + digits.encode()
    return hashes.mac("sha256", row.salt, text)[:-1] + b"\x01"


class Binding:
    """The binding of one store's tokens on one TPM, as far as a process needs it."""

    def __init__(self, config: Config, store: Store, tpm: Tpm) -> None:
        self._store = store
        self.tpm = tpm
        self._path = config.pcr_signature
        self._ticket = b""  # of a store that cannot be written to
        self._conditions: dict[bytes, Condition] = {}

    def unseal(self, row: TokenRow, auth: bytes) -> bytes:
        """Return a bound token's secret; StateError if the machine is in another state, TpmError as `Tpm.unseal`."""
        states = States.parse(row.policy)
        approval = self._approval(states, self._ticket or row.ticket)
        known = approval.ticket
        secret = self._opened(row, Blob(row.user_public, row.user_private), auth, states, approval)
        if approval.ticket != known:
            self._keep(row, approval.ticket)
        return secret

    def _approval(self, states: States, ticket: bytes) -> Approval:
        def find(present: bytes) -> list[bytes]:
            if states.signed is None:
                raise ValueError("nothing is signed")
            return PcrSignatures(self._path).of(states.signed, present)

        return Approval(ticket, find)

    def _keep(self, row: TokenRow, ticket: bytes) -> None:
        """Store a ticket for the next login; where that cannot be done, this process has it."""
        self._ticket = ticket
        if self._store.writable:
            try:
                self._store.update_token(row, ticket=ticket)
            except Error:
                return
            self._ticket = b""

    def _opened(self, row: TokenRow, user: Blob, auth: bytes, states: States, approval: Approval) -> bytes:
        branches = policy.branches(row.so_public, *states.digests(pin=not row.no_pin))
        try:
            return bound.unseal(self.tpm, user, auth, branches, states, approval)
        except StateError as error:
            raise self._refused(row, states, error.why) from None
        except TpmError as error:
            if error.command == command.LOAD_EXTERNAL.name and error.code == TPM.VALUE_2:
                why = "this TPM does not take a key of that size as the one that signs states: sign with RSA-2048"
                raise StateError(why) from None
            if error.code == TPM.SIGNATURE_2:
                why = f"no signature in {PcrSignatures(self._path).path} for the present state is good"
            elif error.code in POLICY_REFUSALS:
                why = self._difference(states)
            else:
                raise
        raise self._refused(row, states, why)

    def _difference(self, states: States) -> str:
        try:
            differing = states.differing(bound.read_pcrs(self.tpm, states.pcrs))
        except Error as error:
            return error.why
        if not differing:
            return "the TPM refuses the state that the store says is good: restore the store"
        return _are_others(differing)

    def _refused(self, row: TokenRow, states: States, why: str) -> StateError:
        return StateError(f"token '{row.label}' is bound to {described(states)}: {why}; {way_back(row, states)}")

    def condition(self, text: bytes) -> Condition:
        """Return what the policy of a key asks for at each use."""
        if text not in self._conditions:
            states = States.parse(text.decode())
            self._conditions[text] = Condition(states, self._approval(states, b""))
        return self._conditions[text]

    def why_shut(self, row: TokenRow) -> str:
        """Return why a bound token does not open in the present state of the machine; empty if it does.

        No PIN is needed, and whether a signature is good is not asked.
        """
        states = States.parse(row.policy)
        signed = states.signed
        present = bound.read_pcrs(self.tpm, states.pcrs + (signed.pcrs if signed else ()))
        if differing := states.differing(present):
            return _are_others(differing)
        if signed:
            try:
                values = {pcr: present[pcr] for pcr in signed.pcrs}
                PcrSignatures(self._path).of(signed, policy.pcr(policy.START, values))
            except StateError as error:
                return error.why
            except KeyError:
                return "this TPM has no such PCR"
        return ""

    # -- binding anew

    def seal(self, row: TokenRow, secret: bytes, auth: bytes, wish: Wish) -> dict[str, Any]:
        """Seal a token's secret so that it opens as is wished, and return the columns of the token that change.

        The new object is opened once before it counts. The recovery code goes on being good.
        """
        if not (wish.pcrs or wish.signed):
            return {**_columns("user", self._user(row, secret, auth, None)), "policy": "", "ticket": b""}
        states = wish.states(self.tpm)
        approval = self._approval(states, row.ticket)
        user = self._user(row, secret, auth, states)
        if not hashes.compare_digest(self._opened(row, user, auth, states, approval), secret):
            raise Error(CKR.DEVICE_ERROR, "the TPM did not give back what was sealed; nothing was changed")
        return {**_columns("user", user), "policy": str(states), "ticket": approval.ticket}

    def _user(self, row: TokenRow, secret: bytes, auth: bytes, states: States | None) -> Blob:
        branches = policy.branches(row.so_public, *(states.digests(pin=not row.no_pin) if states else ()))
        bound_ = states is not None
        return provision.create_user(self.tpm, branches, auth, secret, no_pin=row.no_pin, bound=bound_)

    def seal_anew(self, row: TokenRow, secret: bytes, auth: bytes, wish: Wish) -> dict[str, Any]:
        """Seal a token's secret so that it opens as is wished, and by the recovery code of the wish, or by none."""
        recovery = _NOTHING
        if wish.code is not None:
            recovery = self.tpm.create(template.recovery(), _recovery_auth(row, wish.code), secret)
        return {**self.seal(row, secret, auth, wish), **_columns("recovery", recovery)}

    def recovered(self, row: TokenRow, code: str) -> bytes:
        """Return a token's secret for its recovery code; CKR_ARGUMENTS_BAD for a wrong one, which nobody counts."""
        if not row.recovery_private:
            raise Error(CKR.ARGUMENTS_BAD, f"token '{row.label}' has no recovery code")
        blob = Blob(row.recovery_public, row.recovery_private)
        try:
            return self.tpm.unseal(blob, _recovery_auth(row, code))
        except TpmError as error:
            if error.code not in {TPM.AUTH_FAIL, TPM.BAD_AUTH}:
                raise
            raise Error(CKR.ARGUMENTS_BAD, "the recovery code is wrong; nothing was changed") from None


def described(states: States) -> str:
    """Return what a token or a key is bound to: "PCR 7+14, signed PCR 11", "one boot, a time"."""
    parts = [f"PCR {state.written(states.pcrs)}"] if states.pcrs else []
    parts += [f"signed PCR {state.written(states.signed.pcrs)}"] if states.signed else []
    parts += [] if states.reset is None else ["one boot"]
    return ", ".join(parts + ([] if states.clock is None else ["a time"]))


def refused_use(states: States) -> StateError:
    """Return the error of a key whose policy is not satisfied."""
    if states.times:
        why = "its time is over, and it never works again: make another one, and delete this one"
    else:
        why = "the TPM does not take that for the present state"
    return StateError(f"the key is bound to {described(states)}: {why}")


def way_back(row: TokenRow, states: States) -> str:
    """Return what to do where a bound token does not open."""
    start = "start the machine as before" if states.pcrs else "start a kernel that this key has signed"
    return f"{start}, or: p11tpm token recover '{row.label}'" if row.recovery_private else start


def _are_others(pcrs: list[int]) -> str:
    return f"PCR {state.written(pcrs)} {'is another' if len(pcrs) == 1 else 'are others'}"


def _columns(role: str, blob: Blob) -> dict[str, bytes]:
    """Return an object's columns of the token."""
    return {f"{role}_public": blob.public, f"{role}_private": blob.private}
