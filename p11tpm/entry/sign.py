"""Signatures (clause 5.13)."""

from __future__ import annotations

from p11tpm.core.session import SIGN, SIGN_RECOVER
from p11tpm.entry.attach import entry
from p11tpm.entry.c_memory import output, read_bytes, read_mechanism
from p11tpm.entry.run import module, to_begin
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.operation import sign

    Ptr = Any
else:
    sign = Late("p11tpm.operation.sign")


@entry
def C_SignInit(session: int, mechanism: Ptr, key: int) -> None:
    """Begin a signature."""
    current = to_begin(session, SIGN, mechanism)
    if current is None:
        return
    current.begin(SIGN, sign.Sign(current.token, module().key(current, key), read_mechanism(mechanism)))


@entry
def C_Sign(session: int, data: Ptr, data_length: int, out: Ptr, out_length: Ptr) -> None:
    """Sign in one part."""
    with module().session(session).using(SIGN) as signing:
        buffer = output(out, out_length, signing.size)
        buffer.write(signing.sign(read_bytes(data, data_length)))


@entry
def C_SignUpdate(session: int, part: Ptr, part_length: int) -> None:
    """Add the next part to what is signed."""
    with module().session(session).going_on(SIGN) as signing:
        signing.update(read_bytes(part, part_length))


@entry
def C_SignFinal(session: int, out: Ptr, out_length: Ptr) -> None:
    """Sign what was taken."""
    with module().session(session).using(SIGN) as signing:
        buffer = output(out, out_length, signing.size)
        buffer.write(signing.finish())


@entry
def C_SignRecoverInit(session: int, mechanism: Ptr, key: int) -> None:
    """Begin a signature from which the data can be recovered."""
    current = to_begin(session, SIGN_RECOVER, mechanism)
    if current is None:
        return
    current.begin(SIGN_RECOVER, sign.SignRecover(current.token, module().key(current, key), read_mechanism(mechanism)))


@entry
def C_SignRecover(session: int, data: Ptr, data_length: int, out: Ptr, out_length: Ptr) -> None:
    """Sign so that the data can be recovered."""
    with module().session(session).using(SIGN_RECOVER) as signing:
        buffer = output(out, out_length, signing.size)
        buffer.write(signing.sign(read_bytes(data, data_length)))
