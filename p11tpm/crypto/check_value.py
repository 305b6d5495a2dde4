"""The check value of a secret key: three bytes by which two copies of a key can be compared (clause 4.10.2)."""

from __future__ import annotations

from p11tpm.ck import CKK
from p11tpm.crypto.hashes import digest
from p11tpm.host.imports import Late
from p11tpm.mechanism import DES_SIZES, ECB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.crypto import block

else:
    block = Late("p11tpm.crypto.block")


SHORTEST = 16  # bytes: of a shorter secret, 24 bits of a hash would tell too much


def check_value(key_type: int, value: bytes) -> bytes:
    """Return the check value of a key, or nothing for a short one.

    AES and DES: from the encryption of a block of zeros (Current Mechanisms 3.0, clauses 2.8.2 and 2.16); any other
    key: from its SHA-1 (clause 2.5.2).
    """
    if len(value) < SHORTEST:
        return b""
    if key_type not in {CKK.AES, *DES_SIZES}:
        return digest("sha1", value)[:3]
    cipher = block.InMemory(key_type, value)
    return cipher.context(ECB).update(bytes(cipher.block))[:3]
