"""Diffie-Hellman key agreement over a prime, in software (PKCS #3; Current Mechanisms 3.0, clause 2.4)."""

from __future__ import annotations

from posix import urandom

from p11tpm.ck import CKK
from p11tpm.crypto.domain import Domain
from p11tpm.family.domain import OverPrime
from p11tpm.family.length import last_bytes
from p11tpm.given import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.mechanism import Mechanism

_NOISE = 8  # bytes that an exponent is made longer by


class Dh(OverPrime):
    """Diffie-Hellman."""

    def derive(self, token: Token, keys: list[Object], _row: Mechanism, params: Any, length: int | None) -> bytes:
        """Agree with the other side's public value; the leading bytes go (clause 2.4.6)."""
        (key,) = keys
        private, noise = (int.from_bytes(value, "big") for value in (token.tpm.secret_of(key), urandom(_NOISE)))
        try:
            shared = Domain(CKK.DH, key.attributes).shared(private, params.number, noise)
        except ValueError:
            raise refused("the other side's public value is not one over the key's prime") from None
        return last_bytes(shared, length)


FAMILY = Dh(CKK.DH)
