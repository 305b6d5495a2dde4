"""Digests of policies, computed in software: what a TPM's policy session comes to (TPM 2.0 Part 3, clause 23).

All of them are SHA-256. A policy begins with `START`, and each function adds one command to what is there already.
"""

from __future__ import annotations

from p11tpm.crypto import hashes
from p11tpm.tpm import command
from p11tpm.tpm.codec import HASH_IDS, name_of, sized, u16, u32

START = bytes(32)
_MASK = 3  # bytes: PCR 0 to 23, those of every PC (PC Client Platform TPM Profile, clause 4.6)
_ONE_BANK = u32(1)


def _extend(policy: bytes, *more: bytes) -> bytes:
    for part in more:
        policy = hashes.digest("sha256", policy + part)
    return policy


# -- the user's object: the ways to a new PIN, and the states of the machine in which it opens


def branches(so_public: bytes, *states: bytes) -> tuple[bytes, ...]:
    """Return the policies that the user's object accepts: two ways to a new PIN, then the states of the machine.

    The user's way: PolicyAuthValue . PolicyCommandCode(ObjectChangeAuth). The SO's: PolicySecret(SO) . the same code.
    """
    change = u32(command.POLICY_COMMAND_CODE.code) + u32(command.OBJECT_CHANGE_AUTH.code)
    own = _extend(auth_value(START), change)
    # PolicySecret extends twice, the second time by policyRef, which is empty (Part 3, clause 23.2.3, PolicyUpdate)
    officer = _extend(START, u32(command.POLICY_SECRET.code) + name_of(so_public), b"", change)
    return own, officer, *states


def any_of(*policies: bytes) -> bytes:
    """Return the digest of a policy that any of these satisfies; at most eight (Part 3, clause 23.6)."""
    return _extend(START, u32(command.POLICY_OR.code) + b"".join(policies))


def auth_value(policy: bytes) -> bytes:
    """Add that the object's authorisation value has to be known (Part 3, clause 23.17)."""
    return _extend(policy, u32(command.POLICY_AUTH_VALUE.code))


# -- states of the machine


def selection(pcrs: tuple[int, ...]) -> bytes:
    """Marshal a TPML_PCR_SELECTION of PCRs of the bank of SHA-256 (Part 2, clause 10.9.7)."""
    mask = sum(1 << pcr for pcr in pcrs).to_bytes(_MASK, "little")
    return _ONE_BANK + HASH_IDS["sha256"] + bytes((_MASK,)) + mask


def pcr(policy: bytes, values: dict[int, bytes]) -> bytes:
    """Add that PCRs have these values, 32 bytes each (Part 3, clause 23.7)."""
    together = hashes.digest("sha256", b"".join(values[number] for number in sorted(values)))
    return _extend(policy, u32(command.POLICY_PCR.code) + selection(tuple(values)) + together)


def authorized(public: bytes, ref: bytes) -> bytes:
    """Return the policy that a key, a TPMT_PUBLIC, may replace by any that it signs (Part 3, clause 23.16).

    It starts anew, whatever was there before. `ref` is signed together with each policy: policyRef.
    """
    return _extend(START, u32(command.POLICY_AUTHORIZE.code) + name_of(public), ref)


def policy_ref(text: str) -> bytes:
    """Return the policyRef that a text stands for: its SHA-256, nothing for none."""
    return hashes.digest("sha256", text.encode()) if text else b""


def counter_timer(policy: bytes, operand: bytes, offset: int, operation: int) -> bytes:
    """Add that a part of TPMS_TIME_INFO compares so with an operand (Part 3, clause 23.10)."""
    arguments = hashes.digest("sha256", operand + u16(offset) + u16(operation))
    return _extend(policy, u32(command.POLICY_COUNTER_TIMER.code) + arguments)


def or_parameters(policies: tuple[bytes, ...]) -> bytes:
    """Marshal a TPML_DIGEST: the parameter of PolicyOR."""
    return u32(len(policies)) + b"".join(map(sized, policies))
