"""A key pair to be made: its two templates, checked and completed, and the TPM's template for it."""

from __future__ import annotations

import hashlib

from p11tpm import attribute, der
from p11tpm.attribute import Template, to_ulong
from p11tpm.ck import CKA, CKK, CKO, CKR
from p11tpm.error import Error
from p11tpm.mechanism import CURVES, curve_of
from p11tpm.tpm import template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.mechanism import Mechanism

_EXPONENT = b"\x01\x00\x01"  # the one that every TPM has


class KeyPair:
    """What C_GenerateKeyPair was asked for (PKCS#11 Base Specification 3.0, clause 5.18.2)."""

    def __init__(self, row: Mechanism, public: Template, private: Template, capabilities: tuple[str, ...]) -> None:
        """Check both templates.

        Raises the codes of `attribute.complete`, CKR_KEY_SIZE_RANGE or CKR_CURVE_NOT_SUPPORTED for what the TPM does
        not have, and CKR_ATTRIBUTE_VALUE_INVALID for a public exponent other than 65537.
        """
        (self.key_type,) = row.keys
        self._given_id = CKA.ID in public or CKA.ID in private
        made = attribute.of_generated_key(row.type)
        self.public = attribute.complete(public, CKO.PUBLIC_KEY, self.key_type, attribute.GENERATE) | made
        self.private = attribute.complete(private, CKO.PRIVATE_KEY, self.key_type, attribute.GENERATE) | made
        self.private |= {CKA.ALWAYS_SENSITIVE: attribute.TRUE, CKA.NEVER_EXTRACTABLE: attribute.TRUE}
        for one, given, other in ((self.public, public, private), (self.private, private, public)):
            if CKA.ID not in given and CKA.ID in other:
                one[CKA.ID] = other[CKA.ID]
        self.template = self._rsa(capabilities) if self.key_type == CKK.RSA else self._ec(capabilities)

    def _rsa(self, capabilities: tuple[str, ...]) -> bytes:
        bits = to_ulong(self.public[CKA.MODULUS_BITS])
        if f"rsa{bits}" not in capabilities:
            raise Error(CKR.KEY_SIZE_RANGE, f"this TPM makes no RSA keys of {bits} bits")
        if self.public[CKA.PUBLIC_EXPONENT].lstrip(b"\x00") != _EXPONENT:
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "the public exponent of a TPM's keys is 65537")
        return template.rsa(bits)

    def _ec(self, capabilities: tuple[str, ...]) -> bytes:
        curve = curve_of(self.public[CKA.EC_PARAMS])
        if curve not in capabilities:
            raise Error(CKR.CURVE_NOT_SUPPORTED, f"this TPM does not have the curve {curve}")
        return template.ec(curve)

    def describe(self, tpm_public: bytes) -> None:
        """Add what is known once the TPM has made the key: numbers, point, and an identifier if none was given.

        The identifier is the SHA-1 of the modulus or of the point: a name, not a safeguard.
        """
        shared: tuple[int, ...]
        if self.key_type == CKK.RSA:
            numbers = der.rsa_public(*template.rsa_numbers(tpm_public))
            name = numbers[CKA.MODULUS]
            shared = (CKA.MODULUS, CKA.PUBLIC_EXPONENT, CKA.PUBLIC_KEY_INFO)
        else:
            curve = curve_of(self.public[CKA.EC_PARAMS])
            numbers = der.ec_public(curve, *template.ec_point(tpm_public), CURVES[curve][0])
            name = numbers[CKA.EC_POINT]
            shared = (CKA.EC_PARAMS, CKA.PUBLIC_KEY_INFO)
        self.public |= numbers
        self.private |= {type_: numbers[type_] for type_ in shared}
        if not self._given_id:
            self.public[CKA.ID] = self.private[CKA.ID] = hashlib.sha1(name, usedforsecurity=False).digest()
