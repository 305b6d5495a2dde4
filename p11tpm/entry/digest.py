"""Message digests (clause 5.12)."""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.core.session import DIGEST
from p11tpm.entry.attach import entry
from p11tpm.entry.c_memory import output, read_bytes, read_mechanism
from p11tpm.entry.run import module, to_begin
from p11tpm.error import answering
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.operation import digest

    Ptr = Any
else:
    digest = Late("p11tpm.operation.digest")


@entry
def C_DigestInit(session: int, mechanism: Ptr) -> None:
    """Begin a digest."""
    current = to_begin(session, DIGEST, mechanism)
    if current is None:
        return
    current.begin(DIGEST, digest.Digest(current.token, read_mechanism(mechanism)))


@entry
def C_Digest(session: int, data: Ptr, data_length: int, out: Ptr, out_length: Ptr) -> None:
    """Digest in one part."""
    with module().session(session).using(DIGEST) as digesting:
        buffer = output(out, out_length, digesting.size)
        buffer.write(digesting.digest(read_bytes(data, data_length)))


@entry
def C_DigestUpdate(session: int, part: Ptr, part_length: int) -> None:
    """Digest the next part."""
    with module().session(session).going_on(DIGEST) as digesting:
        digesting.update(read_bytes(part, part_length))


@entry
def C_DigestKey(session: int, key: int) -> None:
    """Digest the value of a secret key, which a logout hides, also during the call."""
    run = module()
    current = run.session(session)
    with answering({CKR.USER_NOT_LOGGED_IN: CKR.KEY_HANDLE_INVALID}), current.keeping(DIGEST) as digesting:
        digesting.add_key(run.key(current, key))


@entry
def C_DigestFinal(session: int, out: Ptr, out_length: Ptr) -> None:
    """Digest what was taken."""
    with module().session(session).using(DIGEST) as digesting:
        buffer = output(out, out_length, digesting.size)
        buffer.write(digesting.finish())
