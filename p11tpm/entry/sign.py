"""Signatures (clause 5.13)."""

from __future__ import annotations

from p11tpm.entry.attach import entry
from p11tpm.entry.run import module
from p11tpm.late import loading
from p11tpm.marshal import NULL, read_bytes, read_mechanism, write_bytes
from p11tpm.session import SIGN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.session import Session

    Ptr = Any


def _cancels(current: Session, kind: str, mechanism: Ptr) -> bool:
    """Say whether a NULL mechanism ended an active operation, which is what it is for (3.0, clause 5.13.1)."""
    return bool(mechanism == NULL and current.cancel(kind))


@entry
def C_SignInit(session: int, mechanism: Ptr, key: int) -> None:
    """Begin a signature."""
    run = module()
    current = run.session(session)
    if _cancels(current, SIGN, mechanism):
        return
    current.require_none(SIGN)
    with loading:
        from p11tpm.operation.sign import Sign  # with the hashes, which a host that lists keys does not need

    current.begin(SIGN, Sign(current.token, run.key(current, key), read_mechanism(mechanism)))


@entry
def C_Sign(session: int, data: Ptr, data_length: int, out: Ptr, out_length: Ptr) -> None:
    """Sign in one part."""
    with module().session(session).using(SIGN) as signing:
        write_bytes(out, out_length, signing.size, lambda: signing.sign(read_bytes(data, data_length)))


@entry
def C_SignUpdate(session: int, part: Ptr, part_length: int) -> None:
    """Take the next part of what is signed."""
    with module().session(session).going_on(SIGN) as signing:
        signing.update(read_bytes(part, part_length))


@entry
def C_SignFinal(session: int, out: Ptr, out_length: Ptr) -> None:
    """Sign what was taken."""
    with module().session(session).using(SIGN) as signing:
        write_bytes(out, out_length, signing.size, signing.finish)
