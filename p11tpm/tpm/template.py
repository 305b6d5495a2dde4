"""Public areas: templates of what is created, readers of what came back (TPM 2.0 Part 2, clause 12.2.4)."""

from __future__ import annotations

from p11tpm.algorithm import CURVES
from p11tpm.tpm.codec import HASH_IDS, Reader, sized, u16, u32

RSA, KEYED_HASH, ECC, SYMMETRIC = 0x0001, 0x0008, 0x0023, 0x0025
_NULL = u16(0x0010)
_AES = u16(0x0006)
_AES_128_CFB = _AES + u16(128) + u16(0x0043)
_HMAC = u16(0x0005)
_SHA256 = HASH_IDS["sha256"]

# TPMA_OBJECT: Part 2, clause 8.3
FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN = 1 << 1, 1 << 4, 1 << 5
USER_WITH_AUTH, ADMIN_WITH_POLICY, NO_DA = 1 << 6, 1 << 7, 1 << 10
RESTRICTED, DECRYPT, SIGN = 1 << 16, 1 << 17, 1 << 18

_FIXED = FIXED_TPM | FIXED_PARENT
# adminWithPolicy stays clear, so that a key can be certified with its own authorisation value
_IMPORTED = USER_WITH_AUTH | NO_DA | SIGN | DECRYPT
_KEY = _FIXED | SENSITIVE_DATA_ORIGIN | _IMPORTED
_SRK = _FIXED | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | NO_DA | RESTRICTED | DECRYPT


def _head(kind: int, attributes: int, policy: bytes = b"") -> bytes:
    return u16(kind) + _SHA256 + u32(attributes) + sized(policy)


def rsa(bits: int) -> bytes:
    """Return the template of an RSA key that signs and decrypts whatever its user padded; exponent 65537."""
    return _head(RSA, _KEY) + _NULL + _NULL + u16(bits) + u32(0) + sized(b"")


def ec(curve: str) -> bytes:
    """Return the template of an EC key for signatures and key agreement; `curve` is one of CURVES."""
    return _head(ECC, _KEY) + _NULL + _NULL + u16(CURVES[curve].tpm) + _NULL + sized(b"") + sized(b"")


def with_policy(public: bytes, policy: bytes) -> bytes:
    """Return the template of a key that works by a policy only, from that of one without."""
    attributes = int.from_bytes(public[4:8], "big") & ~USER_WITH_AUTH
    return public[:4] + u32(attributes) + sized(policy) + public[10:]


def imported_rsa(modulus: int, exponent: int) -> bytes:
    """Return the public area of an RSA key from outside; its exponent has 32 bits at the most."""
    bits = modulus.bit_length()
    number = modulus.to_bytes((bits + 7) // 8, "big")
    return _head(RSA, _IMPORTED) + _NULL + _NULL + u16(bits) + u32(0 if exponent == 65537 else exponent) + sized(number)


def imported_ec(curve: str, x: bytes, y: bytes) -> bytes:
    """Return the public area of an EC key from outside; its coordinates are as long as the curve's field."""
    return _head(ECC, _IMPORTED) + _NULL + _NULL + u16(CURVES[curve].tpm) + _NULL + sized(x) + sized(y)


def authority(modulus: int, exponent: int) -> bytes:
    """Return the public area of an RSA key that signs states of the machine, as systemd gives it to a TPM.

    Its Name is a part of policies, so it is the same whatever made the key.
    """
    number = modulus.to_bytes((modulus.bit_length() + 7) // 8, "big")
    sizes = u16(modulus.bit_length()) + u32(0 if exponent == 65537 else exponent)
    return _head(RSA, SIGN | DECRYPT | USER_WITH_AUTH) + _NULL + _NULL + sizes + sized(number)


def aes(bits: int, *, made: bool) -> bytes:
    """Return the template of an AES key for any mode; `made`: by the TPM, else its value comes with the command."""
    origin = SENSITIVE_DATA_ORIGIN if made else 0
    return _head(SYMMETRIC, _FIXED | _IMPORTED | origin) + _AES + u16(bits) + _NULL + sized(b"")


def hmac(digest: str | None) -> bytes:
    """Return the template of an HMAC key from outside, for one hash or for any (None).

    A key for any has to be one that could decrypt too (Part 2, clause 12.2.3.3).
    """
    if digest is None:
        return _head(KEYED_HASH, _FIXED | _IMPORTED) + _NULL + sized(b"")
    return _head(KEYED_HASH, (_FIXED | _IMPORTED) & ~DECRYPT) + _HMAC + HASH_IDS[digest] + sized(b"")


def srk() -> bytes:
    """Return the TCG's template of a P-256 storage root key, as key files with the parent 0x40000001 mean it."""
    return _head(ECC, _SRK) + _AES_128_CFB + _NULL + u16(CURVES["p256"].tpm) + _NULL + sized(b"") + sized(b"")


def so() -> bytes:
    """Return the template of the object that knows the SO's PIN: protected against guessing."""
    return _head(KEYED_HASH, _FIXED | USER_WITH_AUTH) + _NULL + sized(b"")


def user(policy: bytes, *, no_pin: bool = False, bound: bool = False) -> bytes:
    """Return the template of the object that seals a token's secret; the policy says who may change its PIN.

    Without a PIN it is not protected against guessing, since there is nothing to guess. One that is `bound` opens by
    its policy only, which says in which states of the machine, too.
    """
    attributes = _FIXED | ADMIN_WITH_POLICY | (0 if bound else USER_WITH_AUTH) | (NO_DA if no_pin else 0)
    return _head(KEYED_HASH, attributes, policy) + _NULL + sized(b"")


def recovery() -> bytes:
    """Return the template of the object that gives a bound token back for a code too long to be guessed."""
    return _head(KEYED_HASH, _FIXED | USER_WITH_AUTH | NO_DA) + _NULL + sized(b"")


def is_rsa(public: bytes) -> bool:
    """Return whether a TPMT_PUBLIC is an RSA key's."""
    return int.from_bytes(public[:2], "big") == RSA


def is_storage_key(public: bytes) -> bool:
    """Return whether a key can be the parent of a token's objects, also while the TPM is locked out."""
    attributes = int.from_bytes(public[4:8], "big")
    wanted = RESTRICTED | DECRYPT | NO_DA
    return int.from_bytes(public[:2], "big") in {RSA, ECC} and attributes & (wanted | SIGN) == wanted


def symmetric(public: bytes) -> tuple[bytes, int, bytes]:
    """Return what a storage key encrypts its children with: algorithm, size of the key in bits, mode."""
    reader = Reader(public)
    reader.take(8)
    reader.buffer()
    return reader.take(2), reader.number(2), reader.take(2)


def _parameters(public: bytes) -> Reader:
    """Skip what all asymmetric keys have: type, name algorithm, attributes, policy, symmetric algorithm, scheme."""
    reader = Reader(public)
    kind = reader.number(2)
    reader.take(6)
    reader.buffer()
    if reader.take(2) != _NULL:
        reader.take(4)  # key bits and mode
    scheme = reader.take(2)
    if scheme not in {_NULL, u16(0x0015)}:  # RSAES has no details
        reader.take(2 if scheme != u16(0x001A) else 4)  # a hash; ECDAA a counter too
    if kind not in {RSA, ECC}:
        raise ValueError("not an asymmetric key")
    return reader


def rsa_numbers(public: bytes) -> tuple[int, int]:
    """Return modulus and exponent of an RSA key."""
    reader = _parameters(public)
    reader.take(2)
    exponent = reader.number(4) or 65537
    return int.from_bytes(reader.buffer(), "big"), exponent


def curve(public: bytes) -> str:
    """Return the name of an EC key's curve; its number as text if it is none of CURVES."""
    number = _parameters(public).number(2)
    return next((name for name, known in CURVES.items() if known.tpm == number), f"{number:#06x}")


def ec_point(public: bytes) -> tuple[int, int]:
    """Return the coordinates of an EC key's public point."""
    reader = _parameters(public)
    reader.take(2)
    if reader.take(2) != _NULL:
        reader.take(2)
    return int.from_bytes(reader.buffer(), "big"), int.from_bytes(reader.buffer(), "big")
