"""An EC private key from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asn1crypto import core
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from p11tpm.algorithm import CURVES
from p11tpm.ck import CKA, CKR, name
from p11tpm.crypto import der
from p11tpm.crypto.public import ec_curve
from p11tpm.error import Error
from p11tpm.family.private_key import PrivateKey
from p11tpm.mechanism import curve_of
from p11tpm.tpm import template

if TYPE_CHECKING:
    from p11tpm.attribute import Template


class EcKey(PrivateKey):
    """An EC private key; it wants CKA_EC_PARAMS and CKA_VALUE."""

    def _take_numbers(self, parts: dict[int, int]) -> Template:
        for type_, there in ((CKA.EC_PARAMS, self.attributes), (CKA.VALUE, parts)):
            if type_ not in there:
                raise Error(CKR.TEMPLATE_INCOMPLETE, f"the template lacks {name(CKA, type_)}")
        curve = curve_of(self.attributes[CKA.EC_PARAMS])
        self._word = curve
        self._too_big = Error(CKR.CURVE_NOT_SUPPORTED, f"this TPM does not have the curve {curve}")
        try:
            self._key = ec.derive_private_key(parts[CKA.VALUE], ec_curve(curve))
        except UnsupportedAlgorithm:
            raise Error(CKR.CURVE_NOT_SUPPORTED, f"libcrypto does not have the curve {curve}") from None
        except ValueError:
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_VALUE is not a private key on this curve") from None
        point = self._key.public_key().public_numbers()
        size = CURVES[curve].size
        numbers = der.ec_public(curve, point.x, point.y)
        x, y, self._number = (number.to_bytes(size, "big") for number in (point.x, point.y, parts[CKA.VALUE]))
        self._public = template.imported_ec(curve, x, y)
        points = (b"\x04" + x + y, bytes((2 + point.y % 2,)) + x)  # SEC 1, clause 2.3.3
        self._points = {form for point in points for form in (point, core.OctetString(point).dump())}
        return numbers
