"""Exercises of the mechanisms of key pairs: keys of another implementation, brought into the TPM."""

from __future__ import annotations

from functools import lru_cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.serialization import load_der_public_key
from exercise import DIGEST, MESSAGE, OPEN, SECRET, Family, hash_of
from keys import NAMED, as_bytes, as_object, der_signature, public_key
from parameters import ecdh, oaep, ulongs

from p11tpm.attribute import TRUE, ulong
from p11tpm.ck import CKA, CKD, CKG, CKK, CKM, CKO

PRIVATE = {CKA.CLASS: ulong(CKO.PRIVATE_KEY)}
CURVES = {curve.key_size: curve() for curve in (ec.SECP192R1, ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)}

EDWARDS = {  # bits of the field
    255: (bytes.fromhex("06032b6570"), ed25519.Ed25519PrivateKey),
    448: (bytes.fromhex("06032b6571"), ed448.Ed448PrivateKey),
}


@lru_cache
def rsa_key(bits):
    return rsa.generate_private_key(65537, bits)


@lru_cache
def ec_key(bits):
    return ec.generate_private_key(CURVES[bits])


def number(data):
    return int.from_bytes(data, "big")


# -- RSA


class RsaKeys(Family):
    names = "RSA_PKCS_KEY_PAIR_GEN"

    def generate_key_pair(self):
        template = {CKA.MODULUS_BITS: ulong(self.size)}
        public, private = self.run.generate_pair(self.session, self.type, template, {})
        key = public_key(self.run, self.session, public)
        assert key.key_size == self.size
        signature = self.run.sign(self.session, private, CKM.SHA256_RSA_PKCS, MESSAGE)
        key.verify(signature, MESSAGE, padding.PKCS1v15(), hashes.SHA256())


class Rsa(Family):
    """An RSA key pair of the other implementation, brought into the TPM."""

    parameter = b""

    def __init__(self, *args):
        super().__init__(*args)
        self.key = rsa_key(self.size)
        self.numbers = self.key.private_numbers()
        self.modulus, self.bytes = self.numbers.public_numbers.n, self.size // 8
        template = {**PRIVATE, CKA.KEY_TYPE: ulong(CKK.RSA), CKA.MODULUS: as_bytes(self.modulus)}
        self.private = self.create({**template, CKA.PRIME_1: as_bytes(self.numbers.p)}, f"private {self.size}")
        self.public = self.create(as_object(self.key.public_key()), f"public {self.size}")


class Hashed(Rsa):
    """A signature of a message; CKM_RSA_PKCS_PSS takes a hash."""

    names = r"(MD5|SHA\d+)_RSA_PKCS|(SHA\d+_)?RSA_PKCS_PSS"

    def __init__(self, *args):
        super().__init__(*args)
        self.data, self.hash, self.scheme = MESSAGE, None, padding.PKCS1v15()
        if self.name == "RSA_PKCS_PSS":
            self.data, self.hash, hash_ = DIGEST, Prehashed(hashes.SHA256()), hashes.SHA256()
        else:
            self.hash = hash_ = hash_of(self.name)[1]
        if self.name.endswith("PSS"):
            salt = min(hash_.digest_size, self.bytes - hash_.digest_size - 2)
            word = hash_.name.upper()
            mechanism = CKM.SHA_1 if word == "SHA1" else getattr(CKM, word)
            self.parameter = ulongs(mechanism, getattr(CKG, f"MGF1_{word}"), salt)
            self.scheme = padding.PSS(padding.MGF1(hash_), salt)

    def sign(self):
        signature = self.run.sign(self.session, self.private, self.type, self.data, self.parameter)
        self.key.public_key().verify(signature, self.data, self.scheme, self.hash)

    def verify(self):
        signature = self.key.sign(self.data, self.scheme, self.hash)
        self.verified(self.public, self.data, signature, self.parameter)


class Ciphered(Rsa):
    """What encrypts with the public key: OAEP."""

    names = "RSA_PKCS_OAEP"
    parameter = oaep(CKM.SHA256, CKG.MGF1_SHA256, b"label")
    scheme = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"label")

    def encrypted(self, data):
        return self.key.public_key().encrypt(data, self.scheme)

    def decrypted(self, data):
        return self.key.decrypt(data, self.scheme)

    def encrypt(self):
        assert self.decrypted(self._crypt("Encrypt", self.public, MESSAGE)) == MESSAGE

    def decrypt(self):
        assert self._crypt("Decrypt", self.private, self.encrypted(MESSAGE)).lstrip(b"\0") == MESSAGE

    def _crypt(self, way, key, data):
        return self.run.crypt(way, self.session, key, self.type, data, self.parameter)

    def wrap(self):
        wrapped = self.run.wrap(self.session, self.public, self.secret(DIGEST), self.type, self.parameter)
        assert self.decrypted(wrapped) == DIGEST

    def unwrap(self):
        wrapped, template = self.encrypted(DIGEST), {**SECRET, **OPEN, CKA.VALUE_LEN: ulong(32)}
        key = self.run.unwrap(self.session, self.private, self.type, wrapped, template, self.parameter)
        assert self.value(key) == DIGEST


class Plain(Ciphered):
    """What also signs blocks from which the data come back: with the padding of PKCS #1."""

    names = "RSA_PKCS"
    parameter = b""
    scheme = padding.PKCS1v15()

    def block(self, data):
        return b"\0\1" + b"\xff" * (self.bytes - 3 - len(data)) + b"\0" + data

    def signed(self, data):
        return pow(number(self.block(data)), self.numbers.d, self.modulus).to_bytes(self.bytes, "big")

    def sign(self):
        assert self.run.sign(self.session, self.private, self.type, MESSAGE) == self.signed(MESSAGE)

    def verify(self):
        self.verified(self.public, MESSAGE, self.signed(MESSAGE))

    def sign_recover(self):
        run = self.run
        run.C_SignRecoverInit(self.session, run.mechanism(self.type), self.private)
        made = run.bytes_of(lambda *out: run.C_SignRecover(self.session, MESSAGE, len(MESSAGE), *out))
        assert made == self.signed(MESSAGE)

    def verify_recover(self):
        run, signature = self.run, self.signed(MESSAGE)
        run.C_VerifyRecoverInit(self.session, run.mechanism(self.type), self.public)
        data = run.bytes_of(lambda *out: run.C_VerifyRecover(self.session, signature, len(signature), *out))
        assert data.lstrip(b"\0") == MESSAGE


class Raw(Plain):
    """RSA without a padding: numbers."""

    names = "RSA_X_509"

    def block(self, data):
        return data

    def encrypted(self, data):
        return pow(number(data), 65537, self.modulus).to_bytes(self.bytes, "big")

    def decrypted(self, data):
        return as_bytes(pow(number(data), self.numbers.d, self.modulus))


# -- EC


class EcKeys(Family):
    names = "EC_KEY_PAIR_GEN"

    def generate_key_pair(self):
        template = {CKA.EC_PARAMS: NAMED[CURVES[self.size].name]}
        public, private = self.run.generate_pair(self.session, self.type, template, {})
        key = public_key(self.run, self.session, public)
        assert key.curve.key_size == self.size
        signature = self.run.sign(self.session, private, CKM.ECDSA_SHA256, MESSAGE)
        key.verify(der_signature(signature), MESSAGE, ec.ECDSA(hashes.SHA256()))


class Ec(Family):
    def __init__(self, *args):
        super().__init__(*args)
        self.key = ec_key(self.size)
        template = {**PRIVATE, CKA.KEY_TYPE: ulong(CKK.EC), CKA.EC_PARAMS: NAMED[self.key.curve.name]}
        value = as_bytes(self.key.private_numbers().private_value)
        self.private = self.create({**template, CKA.VALUE: value, CKA.DERIVE: TRUE}, f"private {self.size}")
        self.public = self.create(as_object(self.key.public_key()), f"public {self.size}")


class Ecdsa(Ec):
    names = r"ECDSA(_SHA\d+)?"

    def __init__(self, *args):
        super().__init__(*args)
        plain = self.name == "ECDSA"
        self.data = DIGEST if plain else MESSAGE
        self.scheme = ec.ECDSA(Prehashed(hashes.SHA256()) if plain else hash_of(self.name)[1])

    def sign(self):
        signature = self.run.sign(self.session, self.private, self.type, self.data)
        self.key.public_key().verify(der_signature(signature), self.data, self.scheme)

    def verify(self):
        pair = decode_dss_signature(self.key.sign(self.data, self.scheme))
        self.verified(self.public, self.data, b"".join(as_bytes(one, (self.size + 7) // 8) for one in pair))


class Edwards(Family):
    """EdDSA, in software; a size is that of the field."""

    names = "EC_EDWARDS_KEY_PAIR_GEN|EDDSA"

    def __init__(self, *args):
        super().__init__(*args)
        self.params, kind = EDWARDS[self.size]
        self.key = kind.generate()

    def generate_key_pair(self):
        public, private = self.run.generate_pair(self.session, self.type, {CKA.EC_PARAMS: self.params}, {})
        signature = self.run.sign(self.session, private, CKM.EDDSA, MESSAGE)
        load_der_public_key(self.run.get(self.session, public, CKA.PUBLIC_KEY_INFO)).verify(signature, MESSAGE)

    def sign(self):
        value = self.key.private_bytes_raw()
        kind = {**PRIVATE, CKA.KEY_TYPE: ulong(CKK.EC_EDWARDS), CKA.EC_PARAMS: self.params, CKA.VALUE: value}
        self.key.public_key().verify(self.run.sign(self.session, self.create(kind), self.type, MESSAGE), MESSAGE)

    def verify(self):
        kind = {CKA.CLASS: ulong(CKO.PUBLIC_KEY), CKA.KEY_TYPE: ulong(CKK.EC_EDWARDS), CKA.EC_PARAMS: self.params}
        public = self.create({**kind, CKA.EC_POINT: self.key.public_key().public_bytes_raw()})
        self.verified(public, MESSAGE, self.key.sign(MESSAGE))


class Ecdh(Ec):
    names = "ECDH1(_COFACTOR)?_DERIVE"  # the cofactor of these curves is 1

    def derive(self):
        other = ec.generate_private_key(self.key.curve)
        shared = other.exchange(ec.ECDH(), self.key.public_key())
        point = as_object(other.public_key())[CKA.EC_POINT]
        x963 = X963KDF(hashes.SHA256(), 32, b"shared").derive(shared)
        for parameter, expected in ((ecdh(point), shared), (ecdh(point, CKD.SHA256_KDF, b"shared"), x963)):
            key = self.run.derive(self.session, self.private, self.type, {**SECRET, **OPEN}, parameter)
            assert self.value(key) == expected
