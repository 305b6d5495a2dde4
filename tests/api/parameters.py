"""Parameters of mechanisms as C has them; what they point to lives as long as the process."""

from __future__ import annotations

import ctypes
import struct

from p11tpm.ck import CKD, CKG, CKM, CKZ

_memory = []


def pointer(data: bytes) -> int:
    """Put bytes somewhere and give the address; NULL for none."""
    if not data:
        return 0
    _memory.append(ctypes.create_string_buffer(data, len(data)))
    return ctypes.addressof(_memory[-1])


def ulongs(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def ecdh(point: bytes, kdf: int = CKD.NULL, shared: bytes = b"") -> bytes:
    return ulongs(kdf, len(shared), pointer(shared), len(point), pointer(point))


def string(data: bytes) -> bytes:
    return ulongs(pointer(data), len(data))


def cbc_data(iv: bytes, data: bytes) -> bytes:
    return iv + string(data)


def hkdf(hash_: int, salt: bytes | None = None, info: bytes = b"", salt_key: int = 0, steps: str = "extract expand"):
    kind = 4 if salt_key else 1 if salt is None else 2  # CKF_HKDF_SALT_KEY, _NULL, _DATA
    flags = ("extract" in steps) | ("expand" in steps) << 8
    salt = salt or b""
    return ulongs(flags, hash_, kind, pointer(salt), len(salt), salt_key, pointer(info), len(info))


def gcm(nonce: bytes, associated: bytes = b"", tag: int = 128) -> bytes:
    return ulongs(pointer(nonce), len(nonce), 8 * len(nonce), pointer(associated), len(associated), tag)


def ccm(length: int, nonce: bytes, associated: bytes = b"", tag: int = 16) -> bytes:
    return ulongs(length, pointer(nonce), len(nonce), pointer(associated), len(associated), tag)


def oaep(hash_: int = CKM.SHA_1, mask: int = CKG.MGF1_SHA1, label: bytes = b"") -> bytes:
    return ulongs(hash_, mask, CKZ.DATA_SPECIFIED, pointer(label), len(label))


def ctr(bits: int, block: bytes) -> bytes:
    return ulongs(bits) + block
