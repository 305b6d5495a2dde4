"""The salt of a session: a secret that only the TPM with the right storage root key can read.

TPM 2.0 Part 1, annex B.10.2 (RSA) and C.6.3 (ECC). Made for the SRK that was trusted when the token was created, so
that nobody between us and the TPM can take its place.
"""

from __future__ import annotations

from posix import urandom

from p11tpm import algorithm
from p11tpm._native import ffi, lib
from p11tpm.ck import CKR
from p11tpm.crypto import hashes
from p11tpm.error import Error
from p11tpm.host.imports import import_lock
from p11tpm.tpm import template
from p11tpm.tpm.codec import HASHES, sized
from p11tpm.tpm.kdf import kdfe, mgf1

_CURVES = {"p256", "p384"}  # those of csrc/ecdh.c


def make_salt(srk_public: bytes, label: bytes = b"SECRET") -> tuple[bytes, bytes]:
    """Make a salt for the key with this TPMT_PUBLIC: the salt and its TPM2B_ENCRYPTED_SECRET's contents.

    Another label makes it something else: with b"DUPLICATE" it is the seed of a key that is imported.
    CKR_DEVICE_ERROR for a key that cannot take one: a curve other than P-256 and P-384.
    """
    digest = HASHES[int.from_bytes(srk_public[2:4], "big")]
    if template.is_rsa(srk_public):
        return _rsa(srk_public, digest, label)
    return _ecc(srk_public, digest, label)


def _ecc(public: bytes, digest: str, label: bytes) -> tuple[bytes, bytes]:
    name = template.curve(public)
    if name not in _CURVES:
        raise Error(CKR.DEVICE_ERROR, f"the storage root key is on the curve {name}: P-256 or P-384 is needed")
    curve = algorithm.CURVES[name]
    size = curve.size
    point = template.ec_point(public)
    if max(point) >> curve.bits:
        raise _no_point()
    x, y = (number.to_bytes(size, "big") for number in point)
    # 64 bits more than the order has: the remainder is as good as uniform (FIPS 186-5, appendix A.2.1)
    scalar = (int.from_bytes(urandom(size + 8), "big") % (curve.order - 1) + 1).to_bytes(size, "big")
    own_x, own_y, shared = (ffi.new("uint8_t[]", size) for _ in range(3))
    with import_lock:  # without the GIL, but not during a fork: on P-384 libcrypto takes locks
        failed = lib.ecdh(curve.bits, scalar, x, y, own_x, own_y, shared)
    if failed:
        raise _no_point()
    ephemeral = bytes(ffi.buffer(own_x))
    salt = kdfe(digest, bytes(ffi.buffer(shared)), label, ephemeral, x, algorithm.HASHES[digest].size * 8)
    ffi.memmove(shared, bytes(size), size)
    return salt, sized(ephemeral) + sized(bytes(ffi.buffer(own_y)))


def _no_point() -> Error:
    return Error(CKR.DEVICE_ERROR, "the storage root key of the store is not a point on its curve: restore the store")


def _rsa(public: bytes, digest: str, label: bytes) -> tuple[bytes, bytes]:
    """RSAES-OAEP with the key's name algorithm; the label's zero byte counts (RFC 8017, clause 7.1.1)."""
    modulus, exponent = template.rsa_numbers(public)
    size = (modulus.bit_length() + 7) // 8
    hashed = hashes.digest(digest, label + b"\0")
    width = len(hashed)
    salt, seed = urandom(width), urandom(width)
    block = hashed + bytes(size - 3 * width - 2) + b"\x01" + salt
    masked = _mix(block, mgf1(digest, seed, len(block)))
    masked_seed = _mix(seed, mgf1(digest, masked, width))
    number = pow(int.from_bytes(masked_seed + masked, "big"), exponent, modulus)
    return salt, number.to_bytes(size, "big")


def _mix(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(one), "big")
