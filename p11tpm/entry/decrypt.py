"""Decryption (clause 5.10)."""

from __future__ import annotations

from p11tpm.core.session import DECRYPT
from p11tpm.entry.attach import entry
from p11tpm.entry.c_memory import kept_output, output, plausible, read_bytes, read_mechanism
from p11tpm.entry.run import module, to_begin
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.operation import crypt

    Ptr = Any
else:
    crypt = Late("p11tpm.operation.crypt")


@entry
def C_DecryptInit(session: int, mechanism: Ptr, key: int) -> None:
    """Begin a decryption, or end one: with a NULL mechanism."""
    current = to_begin(session, DECRYPT, mechanism)
    if current is None:
        return
    current.begin(DECRYPT, crypt.decrypting(current.token, module().key(current, key), read_mechanism(mechanism)))


@entry
def C_Decrypt(session: int, data: Ptr, data_length: int, out: Ptr, out_length: Ptr) -> None:
    """Decrypt in one part."""
    with module().session(session).using(DECRYPT) as crypt:
        bound = crypt.bound(plausible(data_length))
        buffer = kept_output(out, out_length, bound)
        buffer.write(crypt.whole(read_bytes(data, data_length)))


@entry
def C_DecryptUpdate(session: int, part: Ptr, part_length: int, out: Ptr, out_length: Ptr) -> None:
    """Decrypt the next part."""
    with module().session(session).going_on(DECRYPT) as crypt:
        size = crypt.step(plausible(part_length))
        buffer = output(out, out_length, size, part_length)
        buffer.write(crypt.update(read_bytes(part, part_length)))


@entry
def C_DecryptFinal(session: int, out: Ptr, out_length: Ptr) -> None:
    """Decrypt what is left."""
    with module().session(session).using(DECRYPT) as crypt:
        buffer = kept_output(out, out_length, crypt.rest)
        buffer.write(crypt.finish())
