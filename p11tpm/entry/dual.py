"""Two operations at once: plaintext is digested, signed or verified, and the other side is encrypted (clause 5.15)."""

from __future__ import annotations

from p11tpm.core.session import DECRYPT, DIGEST, ENCRYPT, SIGN, VERIFY
from p11tpm.entry.attach import entry
from p11tpm.entry.c_memory import output, plausible, read_bytes
from p11tpm.entry.run import module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Ptr = Any


def _encrypt(session: int, kind: str, part: Ptr, part_length: int, out: Ptr, out_length: Ptr) -> None:
    """Encrypt a part, which another operation takes as well; a failure ends the encryption and leaves the other."""
    current = module().session(session)
    with current.going_on(ENCRYPT) as crypt, current.keeping(kind) as other:
        buffer = output(out, out_length, crypt.step(plausible(part_length)), part_length)
        plain = read_bytes(part, part_length)
        encrypted = crypt.update(plain)
        other.update(plain)
        buffer.write(encrypted)


def _decrypt(session: int, kind: str, part: Ptr, part_length: int, out: Ptr, out_length: Ptr) -> None:
    """Decrypt a part, whose plaintext another operation takes; a failure ends the decryption and leaves the other."""
    current = module().session(session)
    with current.going_on(DECRYPT) as crypt, current.keeping(kind) as other:
        buffer = output(out, out_length, crypt.step(plausible(part_length)), part_length)
        plain = bytes(crypt.update(read_bytes(part, part_length)))
        other.update(plain)
        buffer.write(plain)


@entry
def C_DigestEncryptUpdate(session: int, part: Ptr, part_length: int, out: Ptr, out_length: Ptr) -> None:
    """Digest and encrypt the next part."""
    _encrypt(session, DIGEST, part, part_length, out, out_length)


@entry
def C_DecryptDigestUpdate(session: int, part: Ptr, part_length: int, out: Ptr, out_length: Ptr) -> None:
    """Decrypt the next part and digest what comes of it."""
    _decrypt(session, DIGEST, part, part_length, out, out_length)


@entry
def C_SignEncryptUpdate(session: int, part: Ptr, part_length: int, out: Ptr, out_length: Ptr) -> None:
    """Sign and encrypt the next part."""
    _encrypt(session, SIGN, part, part_length, out, out_length)


@entry
def C_DecryptVerifyUpdate(session: int, part: Ptr, part_length: int, out: Ptr, out_length: Ptr) -> None:
    """Decrypt the next part and verify what comes of it."""
    _decrypt(session, VERIFY, part, part_length, out, out_length)
