"""Templates of key pairs, and the verification of signatures by another implementation (cryptography on OpenSSL)."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO

CURVES = {
    "p256": (bytes.fromhex("06082a8648ce3d030107"), ec.SECP256R1()),
    "p384": (bytes.fromhex("06052b81040022"), ec.SECP384R1()),
    "p521": (bytes.fromhex("06052b81040023"), ec.SECP521R1()),
}
NAMED = {curve.name: params for params, curve in CURVES.values()}
NAMED |= {"secp192r1": bytes.fromhex("06082a8648ce3d030101"), "secp224r1": bytes.fromhex("06052b81040021")}
HASHES = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
TOKEN = {CKA.TOKEN: TRUE}


def ec_pair(run, session, curve="p256", label=b"key", id_=b"\x01", **more):
    named = {CKA.LABEL: label, CKA.ID: id_}
    public = {**TOKEN, **named, CKA.EC_PARAMS: CURVES[curve][0], **more.get("public", {})}
    return run.generate_pair(session, CKM.EC_KEY_PAIR_GEN, public, {**TOKEN, **named, **more.get("private", {})})


def rsa_pair(run, session, bits=2048, label=b"rsa", id_=b"\x02"):
    named = {**TOKEN, CKA.LABEL: label, CKA.ID: id_}
    return run.generate_pair(session, CKM.RSA_PKCS_KEY_PAIR_GEN, {**named, CKA.MODULUS_BITS: ulong(bits)}, named)


def secret_key(run, session, value, key_type=CKK.GENERIC_SECRET, **more):
    """Make a session key of a value that anybody may use; `more`: further attributes, as PRIVATE=TRUE."""
    named = {getattr(CKA, word): content for word, content in more.items()}
    kind = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(key_type)}
    return run.create(session, {**kind, CKA.PRIVATE: FALSE, CKA.VALUE: value, **named})


def as_object(key, **more):
    """Return the template of a public key of the package cryptography: a session object."""
    named = {getattr(CKA, word): content for word, content in more.items()}
    numbers = key.public_numbers()
    if isinstance(key, rsa.RSAPublicKey):
        return rsa_object(numbers.n, numbers.e, named)
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    head = bytes([4, len(point)]) if len(point) < 128 else bytes([4, 0x81, len(point)])
    kind = {CKA.CLASS: ulong(CKO.PUBLIC_KEY), CKA.KEY_TYPE: ulong(CKK.EC), CKA.EC_POINT: head + point}
    return {**kind, CKA.EC_PARAMS: NAMED[key.curve.name], **named}


def rsa_object(modulus, exponent, more=()):
    kind = {CKA.CLASS: ulong(CKO.PUBLIC_KEY), CKA.KEY_TYPE: ulong(CKK.RSA)}
    numbers = {CKA.MODULUS: as_bytes(modulus), CKA.PUBLIC_EXPONENT: as_bytes(exponent)}
    return {**kind, **numbers, **dict(more)}


def as_bytes(number, size=0):
    return number.to_bytes(size or (number.bit_length() + 7) // 8, "big")


def public_key(run, session, handle):
    """Read a public key by its numbers, and check that CKA_PUBLIC_KEY_INFO says the same."""
    info = serialization.load_der_public_key(run.get(session, handle, CKA.PUBLIC_KEY_INFO))
    if isinstance(info, rsa.RSAPublicKey):
        modulus = int.from_bytes(run.get(session, handle, CKA.MODULUS), "big")
        exponent = int.from_bytes(run.get(session, handle, CKA.PUBLIC_EXPONENT), "big")
        assert rsa.RSAPublicNumbers(exponent, modulus) == info.public_numbers()
    else:
        point = run.get(session, handle, CKA.EC_POINT)
        header = 3 if point[1] & 0x80 else 2  # OCTET STRING, the length in the short form or in the long one
        length = point[2] if header == 3 else point[1]
        assert (4, len(point) - header) == (point[0], length)
        assert info == ec.EllipticCurvePublicKey.from_encoded_point(info.curve, point[header:])
    return info


def der_signature(pair):
    half = len(pair) // 2
    return utils.encode_dss_signature(int.from_bytes(pair[:half], "big"), int.from_bytes(pair[half:], "big"))


def verify_ecdsa(key, signature, message, digest):
    key.verify(der_signature(signature), message, ec.ECDSA(HASHES[digest]))


def verify_pkcs1(key, signature, message, digest):
    key.verify(signature, message, padding.PKCS1v15(), HASHES[digest])


def verify_pss(key, signature, message, digest, salt):
    key.verify(signature, message, padding.PSS(padding.MGF1(HASHES[digest]), salt), HASHES[digest])
