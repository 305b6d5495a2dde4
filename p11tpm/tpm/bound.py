"""Opening what only opens in a state of the machine: the policy session of `States`, and the use that it allows.

Load goes by a password and comes last: the kernel's resource manager swaps an object that is loaded in and out around
each command.
"""

from __future__ import annotations

from p11tpm.crypto import hashes
from p11tpm.error import TPM, Error, TpmError
from p11tpm.tpm import command, policy
from p11tpm.tpm.codec import HASH_IDS, Reader, name_of, sized, u16, u32
from p11tpm.tpm.hmac_session import TamperedError
from p11tpm.tpm.loaded import OWNER
from p11tpm.tpm.password import PasswordSession
from p11tpm.tpm.policy_session import PolicySession, prove
from p11tpm.tpm.tpm import NOT_RESIDENT, NotResidentError, repeated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from p11tpm.tpm.codec import Blob, Key
    from p11tpm.tpm.hmac_session import HmacSession
    from p11tpm.tpm.state import Signed, States
    from p11tpm.tpm.tpm import Tpm

# IMA extends PCR 10 with each file that is run, and the policy has to begin again after a change of any PCR
_RESTARTS = 10
_NO_PRIVATE = u16(0)
_ANY_DIGEST = sized(b"")  # of a PolicyPCR: PolicyOR says whether the values are good
_RSASSA = u16(0x0014)
_DIGEST_SIZE = 32
_FORMAT_ONE = 0x80  # of a response code: something about a handle, a session or a parameter (Part 2, clause 6.6.2)


class Approval:
    """What shows that a key signed the present PCRs.

    `ticket` is what the TPM gave for a signature that it verified (TPMT_TK_VERIFIED), behind the policy that was
    signed; empty without one. `find` returns the signatures of a policy, RSASSA with SHA-256, or raises an Error.
    """

    __slots__ = ("find", "ticket")

    def __init__(self, ticket: bytes, find: Callable[[bytes], list[bytes]]) -> None:
        self.ticket = ticket
        self.find = find


@repeated
def unseal(tpm: Tpm, blob: Blob, auth: bytes, branches: tuple[bytes, ...], states: States, approval: Approval) -> bytes:
    """Return what is sealed in an object that opens in `states`, and with its authorisation value unless that is empty.

    TpmError 0x98E: a wrong value, which the TPM counts; one of POLICY_REFUSALS: another state, and nothing was counted.
    """
    tpm.loaded.make_room(0)
    handle = None
    with PolicySession(tpm) as session:
        prove(tpm, session)
        try:
            for tries_left in reversed(range(_RESTARTS + 1)):
                try:
                    _satisfy(tpm, session, states, approval, pin=auth != b"")
                    tpm.wire.plain(command.POLICY_OR, u32(session.handle), policy.or_parameters(branches))
                    handle = handle or tpm.loaded.load_in(PasswordSession(), blob)
                    _, answer = tpm.wire.authorised(command.UNSEAL, session, (handle,), auth, b"")
                    break
                except TpmError as error:
                    if error.code != TPM.PCR_CHANGED or not tries_left:
                        raise
                tpm.wire.plain(command.POLICY_RESTART, u32(session.handle))
        finally:
            if handle:
                tpm.let_go(handle[0])
    return Reader(answer).buffer()


def _satisfy(tpm: Tpm, session: HmacSession, states: States, approval: Approval, *, pin: bool) -> None:
    """Show the TPM a state, one of those in `states` if the machine is in it."""
    handle = u32(session.handle)
    if states.signed:
        _authorize(tpm, handle, states.signed, approval)
    if states.pcrs:
        tpm.wire.plain(command.POLICY_PCR, handle, _ANY_DIGEST + policy.selection(states.pcrs))
    for operand, offset, operation in states.times:
        tpm.wire.plain(command.POLICY_COUNTER_TIMER, handle, sized(operand) + u16(offset) + u16(operation))
    if pin:
        tpm.wire.plain(command.POLICY_AUTH_VALUE, handle)


def _authorize(tpm: Tpm, handle: bytes, signed: Signed, approval: Approval) -> None:
    """Show the TPM that the present values of PCRs were signed, by the ticket if that is for them."""
    tpm.wire.plain(command.POLICY_PCR, handle, _ANY_DIGEST + policy.selection(signed.pcrs))
    ref, name = policy.policy_ref(signed.ref), sized(name_of(signed.public))

    def authorize() -> None:
        approved, ticket = approval.ticket[:_DIGEST_SIZE], approval.ticket[_DIGEST_SIZE:]
        tpm.wire.plain(command.POLICY_AUTHORIZE, handle, sized(approved) + sized(ref) + name + ticket)

    if approval.ticket:
        try:
            authorize()
        except TpmError as error:
            if not error.code & _FORMAT_ONE:
                raise
        else:
            return
    present = Reader(tpm.wire.plain(command.POLICY_GET_DIGEST, handle)[1]).buffer()
    approval.ticket = present + _verified(tpm, signed.public, present + ref, approval.find(present))
    authorize()


def _verified(tpm: Tpm, public: bytes, message: bytes, signatures: list[bytes]) -> bytes:
    """Return the TPM's ticket for the first good signature of a message; TpmError 0x2DB if there is none.

    The key is the owner's, since a ticket of the NULL hierarchy is none (Part 3, clause 20.1).
    """
    key, answer = tpm.wire.plain(command.LOAD_EXTERNAL, parameters=_NO_PRIVATE + sized(public) + u32(OWNER))
    try:
        if Reader(answer).buffer() != name_of(public):
            raise TamperedError(command.LOAD_EXTERNAL.name)
        digest = sized(hashes.digest("sha256", message))
        for number, signature in enumerate(signatures, 1):
            parameters = digest + _RSASSA + HASH_IDS["sha256"] + sized(signature)
            try:
                return tpm.wire.plain(command.VERIFY_SIGNATURE, u32(key), parameters)[1]
            except TpmError as error:
                if error.code != TPM.SIGNATURE_2 or number == len(signatures):
                    raise
    finally:
        tpm.let_go(key)
    raise ValueError("no signature to verify")


class Condition:
    """What a key's own policy asks for at each use."""

    __slots__ = ("_approval", "states")

    def __init__(self, states: States, approval: Approval) -> None:
        self.states = states
        self._approval = approval

    def use(self, tpm: Tpm, what: command.Command, key: Key, parameters: bytes) -> bytes:
        """Use a key as `Tpm.use` does; TpmError with one of POLICY_REFUSALS if the policy is not satisfied."""
        try:
            return self._use(tpm, what, key, parameters)
        except Error as error:
            tpm.loaded.drop_lasting()
            if key.resident and isinstance(error, TpmError) and error.code in NOT_RESIDENT:
                raise NotResidentError from None
            raise

    def _use(self, tpm: Tpm, what: command.Command, key: Key, parameters: bytes) -> bytes:
        session = tpm.loaded.lasting_session(salted=what.hidden)
        handle = (key.resident, name_of(key.public)) if key.resident else tpm.loaded.key(key)
        for tries_left in reversed(range(_RESTARTS + 1)):
            try:
                _satisfy(tpm, session, self.states, self._approval, pin=True)
                return tpm.wire.authorised(what, session, (handle,), key.auth, parameters)[1]
            except TpmError as error:
                if error.code != TPM.PCR_CHANGED or not tries_left:
                    raise
            tpm.wire.plain(command.POLICY_RESTART, u32(session.handle))
        raise ValueError("no try was left")


class Time:
    """What the TPM counts: its resets, and its clock in milliseconds, which stands still while it is off."""

    __slots__ = ("clock", "reset")

    def __init__(self, info: bytes) -> None:
        self.clock = int.from_bytes(info[8:16], "big")
        self.reset = int.from_bytes(info[16:20], "big")


@repeated
def read_time(tpm: Tpm) -> Time:
    """Ask for TPMS_TIME_INFO (Part 3, clause 29.1)."""
    return Time(tpm.wire.plain(command.READ_CLOCK)[1])


@repeated
def read_pcrs(tpm: Tpm, pcrs: tuple[int, ...]) -> dict[int, bytes]:
    """Return the values of PCRs in the bank of SHA-256; those that the TPM does not have are left out."""
    values: dict[int, bytes] = {}
    wanted = tuple(sorted(pcrs))  # the order in which the TPM answers
    while wanted:
        reader = Reader(tpm.wire.plain(command.PCR_READ, parameters=policy.selection(wanted))[1])
        reader.take(4)  # pcrUpdateCounter
        masks = [(reader.take(2), reader.take(reader.number(1)))[1] for _ in range(reader.number(4))]
        mask = int.from_bytes(b"".join(masks), "little")
        given = [pcr for pcr in wanted if mask >> pcr & 1][: reader.number(4)]
        if not given:
            break
        values |= {pcr: reader.buffer() for pcr in given}
        wanted = tuple(pcr for pcr in wanted if pcr not in values)
    return values
