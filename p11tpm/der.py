"""DER for attributes of keys and certificates, spoken by asn1crypto; imported when keys or certificates are made."""

from __future__ import annotations

from asn1crypto import core, keys, x509

from p11tpm.attribute import Template, ulong
from p11tpm.ck import CKA, CKR
from p11tpm.error import Error

_OIDS = {
    "p192": "1.2.840.10045.3.1.1",
    "p224": "1.3.132.0.33",
    "p256": "secp256r1",
    "p384": "secp384r1",
    "p521": "secp521r1",
}


def rsa_public(modulus: int, exponent: int) -> Template:
    """Give the attributes that describe an RSA public key (Current Mechanisms 3.0, clause 2.1.2)."""
    key = keys.RSAPublicKey({"modulus": modulus, "public_exponent": exponent})
    return {
        CKA.MODULUS: modulus.to_bytes((modulus.bit_length() + 7) // 8, "big"),
        CKA.PUBLIC_EXPONENT: exponent.to_bytes((exponent.bit_length() + 7) // 8, "big"),
        CKA.MODULUS_BITS: ulong(modulus.bit_length()),
        CKA.PUBLIC_KEY_INFO: keys.PublicKeyInfo.wrap(key, "rsa").dump(),
    }


def ec_public(curve: str, x: int, y: int, bits: int) -> Template:
    """Give the attributes that describe an EC public key: CKA_EC_POINT is a DER OCTET STRING (clause 2.3.3)."""
    size = (bits + 7) // 8
    point = b"\x04" + x.to_bytes(size, "big") + y.to_bytes(size, "big")
    domain = keys.ECDomainParameters(name="named", value=_OIDS[curve])
    algorithm = keys.PublicKeyAlgorithm({"algorithm": "ec", "parameters": domain})
    info = keys.PublicKeyInfo({"algorithm": algorithm, "public_key": keys.ECPointBitString(point)})
    return {
        CKA.EC_PARAMS: domain.dump(),
        CKA.EC_POINT: core.OctetString(point).dump(),
        CKA.PUBLIC_KEY_INFO: info.dump(),
    }


def created_public(template: Template) -> Template:
    """Describe a public key that a host gives by its numbers; CKR_ATTRIBUTE_VALUE_INVALID if they make no key."""
    if CKA.MODULUS in template:
        modulus = int.from_bytes(template[CKA.MODULUS], "big")
        exponent = int.from_bytes(template[CKA.PUBLIC_EXPONENT], "big")
        if modulus < 3 or exponent < 3:
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "this is no RSA public key")
        return rsa_public(modulus, exponent)
    return _created_ec(template[CKA.EC_PARAMS], template[CKA.EC_POINT])


def _created_ec(params: bytes, octets: bytes) -> Template:
    from p11tpm.mechanism import CURVES, curve_of

    curve = curve_of(params)
    bits = CURVES[curve][0]
    size = (bits + 7) // 8
    try:
        point = core.OctetString.load(octets, strict=True).native
    except ValueError:
        point = b""
    if len(point) != 1 + 2 * size or point[0] != 4:
        raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_EC_POINT is no DER OCTET STRING of an uncompressed point")
    return ec_public(curve, int.from_bytes(point[1 : 1 + size], "big"), int.from_bytes(point[1 + size :], "big"), bits)


def certificate(value: bytes) -> Template:
    """Give what an X.509 certificate says of itself: subject, issuer, serial number, public key (clause 4.6.3).

    Raises CKR_ATTRIBUTE_VALUE_INVALID for bytes that are no certificate.
    """
    try:
        tbs = x509.Certificate.load(value, strict=True)["tbs_certificate"]
        return {
            CKA.SUBJECT: tbs["subject"].dump(),
            CKA.ISSUER: tbs["issuer"].dump(),
            CKA.SERIAL_NUMBER: tbs["serial_number"].dump(),
            CKA.PUBLIC_KEY_INFO: tbs["subject_public_key_info"].dump(),
        }
    except (ValueError, TypeError, KeyError):
        raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_VALUE is no X.509 certificate in DER") from None
