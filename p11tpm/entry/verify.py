"""Verification (clause 5.15)."""

from __future__ import annotations

from p11tpm.core.session import VERIFY, VERIFY_RECOVER
from p11tpm.entry.attach import entry
from p11tpm.entry.c_memory import kept_output, read_bytes, read_mechanism
from p11tpm.entry.run import module, to_begin
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.operation import verify

    Ptr = Any
else:
    verify = Late("p11tpm.operation.verify")


@entry
def C_VerifyInit(session: int, mechanism: Ptr, key: int) -> None:
    """Begin a verification."""
    current = to_begin(session, VERIFY, mechanism)
    if current is None:
        return
    current.begin(VERIFY, verify.Verify(current.token, module().key(current, key), read_mechanism(mechanism)))


@entry
def C_Verify(session: int, data: Ptr, data_length: int, signature: Ptr, signature_length: int) -> None:
    """Verify in one part."""
    with module().session(session).using(VERIFY) as verifying:
        verifying.verify(read_bytes(data, data_length), read_bytes(signature, signature_length))


@entry
def C_VerifyUpdate(session: int, part: Ptr, part_length: int) -> None:
    """Add the next part to what is verified."""
    with module().session(session).going_on(VERIFY) as verifying:
        verifying.update(read_bytes(part, part_length))


@entry
def C_VerifyFinal(session: int, signature: Ptr, signature_length: int) -> None:
    """Verify what was taken."""
    with module().session(session).using(VERIFY) as verifying:
        verifying.finish(read_bytes(signature, signature_length))


@entry
def C_VerifyRecoverInit(session: int, mechanism: Ptr, key: int) -> None:
    """Begin a verification that gives the data back."""
    current = to_begin(session, VERIFY_RECOVER, mechanism)
    if current is None:
        return
    current.begin(
        VERIFY_RECOVER, verify.VerifyRecover(current.token, module().key(current, key), read_mechanism(mechanism))
    )


@entry
def C_VerifyRecover(session: int, signature: Ptr, signature_length: int, out: Ptr, out_length: Ptr) -> None:
    """Verify and give the data back: their exact length is known, so a buffer may be as short as they are."""
    with module().session(session).using(VERIFY_RECOVER) as verifying:
        data = verifying.recover(read_bytes(signature, signature_length))
        buffer = kept_output(out, out_length, len(data))
        buffer.write(data)
