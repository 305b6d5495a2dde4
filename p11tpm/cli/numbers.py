"""Public keys compared by their numbers: one key may be written in several ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p11tpm.crypto.der import INTEGER, OID, SEQUENCE, PublicKey, elements, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


def same_key(one: bytes, other: bytes) -> bool:
    """Return whether two SubjectPublicKeyInfo are of one key, with whatever parameters and form of the point."""
    return one == other or _numbers(one) == _numbers(other)


def _numbers(info: bytes) -> Hashable:
    """Return what makes the key: its numbers and the kind of algorithm they are for; else `info` itself."""
    try:
        key = PublicKey(info)
        kind, read = _KINDS[key.algorithm]
        return kind, read(key)
    except (KeyError, ValueError, IndexError):
        return info


def _rsa(key: PublicKey) -> Hashable:
    modulus, exponent = elements(whole(key.bits).content)
    return _integer(modulus.content), _integer(exponent.content)


def _value(key: PublicKey) -> Hashable:
    """Return the public value alone: a certificate may leave the prime to its issuer (RFC 3279 clause 2.3.2)."""
    return _integer(whole(key.bits).content)


def _ec(key: PublicKey) -> Hashable:
    """Return the curve, and the point in compressed form (SEC 1 clause 2.3.3), which the others have in them."""
    parameters, form, size = whole(key.parameters), key.bits[0], (len(key.bits) - 1) // 2
    point = bytes([2 | key.bits[-1] & 1]) + key.bits[1 : 1 + size] if form in _BOTH_COORDINATES else key.bits
    if parameters.tag == OID:
        return _PRIMES.get(parameters.content, parameters.content), point
    _, field, *_ = elements(parameters.content)  # RFC 3279 clause 2.3.5: version, field, curve, base, order
    _, prime = elements(field.content)
    if (parameters.tag, field.tag, prime.tag) != (SEQUENCE, SEQUENCE, INTEGER):
        raise ValueError("these are not parameters over a prime field")
    return _integer(prime.content), point


def _integer(content: bytes) -> int:
    return int.from_bytes(content, "big")


_BOTH_COORDINATES = {4, 6, 7}
_PRIMES = {  # content of the curve's object identifier: its prime, FIPS 186-4 appendix D.1.2
    bytes.fromhex("2a8648ce3d030101"): 2**192 - 2**64 - 1,
    bytes.fromhex("2b81040021"): 2**224 - 2**96 + 1,
    bytes.fromhex("2a8648ce3d030107"): 2**256 - 2**224 + 2**192 + 2**96 - 1,
    bytes.fromhex("2b81040022"): 2**384 - 2**128 - 2**96 + 2**32 - 1,
    bytes.fromhex("2b81040023"): 2**521 - 1,
}
_KINDS: dict[bytes, tuple[str, Callable[[PublicKey], Hashable]]] = {  # by the content of the object identifier
    bytes.fromhex("2a864886f70d010101"): ("rsa", _rsa),  # rsaEncryption
    bytes.fromhex("2a864886f70d010107"): ("rsa", _rsa),  # id-RSAES-OAEP
    bytes.fromhex("2a864886f70d01010a"): ("rsa", _rsa),  # id-RSASSA-PSS
    bytes.fromhex("2a8648ce3d0201"): ("ec", _ec),
    bytes.fromhex("2a8648ce380401"): ("dsa", _value),
    bytes.fromhex("2a864886f70d010301"): ("dh", _value),  # PKCS #3
    bytes.fromhex("2a8648ce3e0201"): ("dh", _value),  # X9.42
}
