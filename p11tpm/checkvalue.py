"""The check value of a secret key: three bytes by which two copies of a key can be compared (clause 4.10.2)."""

from __future__ import annotations

from p11tpm.ck import CKK
from p11tpm.hashes import digest
from p11tpm.late import loading

SHORTEST = 16  # bytes: of a shorter secret, 24 bits of a hash would tell too much


def check_value(key_type: int, value: bytes) -> bytes:
    """Give the check value of a key, or nothing for a short one.

    AES: from the encryption of a block of zeros (Current Mechanisms 3.0, clause 2.8.2); any other key: from its SHA-1
    (clause 2.5.2).
    """
    if len(value) < SHORTEST:
        return b""
    if key_type != CKK.AES:
        return digest("sha1", value)[:3]
    with loading:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        encryptor = Cipher(algorithms.AES(value), modes.ECB()).encryptor()  # noqa: S305 - the standard's check value
        return encryptor.update(bytes(16))[:3]
