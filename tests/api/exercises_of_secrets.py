"""Exercises of the mechanisms of secret keys, and of those without a key."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives import cmac, hashes, keywrap
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.padding import PKCS7
from exercise import DIGEST, MESSAGE, OPEN, SECRET, STAYS, Family, hash_of
from parameters import cbc_data, ccm, ctr, gcm, hkdf, string, ulongs

from p11tpm.attribute import TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO

try:
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES  # from version 43 on
except ImportError:
    from cryptography.hazmat.primitives.ciphers.algorithms import TripleDES
try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB  # from version 46 on
except ImportError:
    from cryptography.hazmat.primitives.ciphers.modes import CFB

IV = bytes(range(16))
NONCE = IV[:12]


class Digest(Family):
    names = r"MD5|SHA_1|SHA\d+|SHA3_\d+"

    def digest(self):
        expected = hashlib.new(hash_of(self.name)[0], MESSAGE).digest()
        assert self.run.digest(self.session, self.type, MESSAGE) == expected


# -- secret keys


class SecretKeys(Family):
    names = "(AES|DES2|DES3|GENERIC_SECRET|HKDF)_KEY_GEN"
    may_stay = True

    def generate(self):
        length = self.size // 8 if self.name.startswith("GENERIC") else self.size  # bits there, bytes elsewhere
        lengths = {} if self.name.startswith("DES") else {CKA.VALUE_LEN: ulong(length)}
        seen = set()
        for _ in range(2):
            handle = self.run.ulong()
            template = self.run.template({**(STAYS if self.stays else OPEN), **lengths})
            self.run.C_GenerateKey(self.session, self.run.mechanism(self.type), *template, handle)
            seen.add(self.run.get(self.session, handle[0], CKA.CHECK_VALUE) if self.stays else self.value(handle[0]))
        assert len(seen) == 2 or length < 16
        assert self.stays or {len(value) for value in seen} == {length}


class Hmac(Family):
    names = r"(MD5|SHA_1|SHA\d+)_HMAC(_GENERAL)?"
    may_stay = True

    def _each(self):
        """Return a key of each type, the parameter, and the code of the message."""
        digest, own = hash_of(self.name)[0], getattr(CKK, self.name.removesuffix("_GENERAL"))
        for key_type, block in ((CKK.GENERIC_SECRET, 64), (own, hashlib.new(digest).block_size)):
            longest = block if self.stays else self.size  # a TPM takes no longer ones
            value = (MESSAGE * 128)[: min(self.size, longest)]
            key, code = self.working(value, key_type), hmac.new(value, MESSAGE, digest).digest()
            if self.name.endswith("GENERAL"):
                for length in (1, len(code) - 1, len(code)):
                    yield key, ulongs(length), code[:length]
            else:
                yield key, b"", code

    def sign(self):
        for key, parameter, code in self._each():
            assert self.run.sign(self.session, key, self.type, MESSAGE, parameter) == code

    def verify(self):
        for key, parameter, code in self._each():
            self.verified(key, MESSAGE, code, parameter)


class Block(Family):
    """A key of AES, or of DES with two or three parts; `block` is the length of a block in bytes."""

    may_stay = True

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        value = (MESSAGE * 2)[: self.size]
        if self.name.startswith("AES"):
            self.block, self.key_type, self.algorithm = 16, CKK.AES, algorithms.AES(value)
        else:
            value = bytes(byte ^ (byte.bit_count() % 2 == 0) for byte in value)  # the parity is odd
            self.block, self.key_type = 8, CKK.DES2 if self.size == 16 else CKK.DES3
            self.algorithm = TripleDES((value + value)[:24])
        self.octets, self.key = value, self.working(value, self.key_type)
        self.iv = IV[: self.block]

    def made(self, mode, data):
        """Encrypt by the other implementation."""
        encryptor = Cipher(self.algorithm, mode).encryptor()
        return encryptor.update(data) + encryptor.finalize()

    def zeros(self, data):
        return data + bytes(-len(data) % self.block)

    def padded(self, data):
        padder = PKCS7(8 * self.block).padder()
        return padder.update(data) + padder.finalize()


class BlockMac(Block):
    names = "(AES|DES3)_C?MAC(_GENERAL)?"

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        if "CMAC" in self.name:
            making = cmac.CMAC(self.algorithm)
            making.update(MESSAGE)
            self.code = making.finalize()
        else:
            self.code = self.made(modes.CBC(bytes(self.block)), self.zeros(MESSAGE))[-self.block :]
            self.code = self.code if self.name.endswith("GENERAL") else self.code[: self.block // 2]
        self.parameter = b""
        if self.name.endswith("GENERAL"):
            self.code = self.code[: self.block - 1]
            self.parameter = ulongs(len(self.code))

    def sign(self):
        assert self.run.sign(self.session, self.key, self.type, MESSAGE, self.parameter) == self.code

    def verify(self):
        self.verified(self.key, MESSAGE, self.code, self.parameter)


BLOCKS, ODD = DIGEST, MESSAGE  # whole blocks, and any length
MODES = {  # name: data, parameter, what another implementation makes of them
    "ECB": lambda one: (BLOCKS, b"", one.made(modes.ECB(), BLOCKS)),
    "CBC": lambda one: (BLOCKS, one.iv, one.made(modes.CBC(one.iv), BLOCKS)),
    "CBC_PAD": lambda one: (ODD, one.iv, one.made(modes.CBC(one.iv), one.padded(ODD))),
    "CTR": lambda one: (ODD, ctr(64, one.iv), one.made(modes.CTR(one.iv), ODD)),
    "CFB128": lambda one: (ODD, one.iv, one.made(CFB(one.iv), ODD)),
    "GCM": lambda one: (ODD, gcm(NONCE, b"aad", 120), AESGCM(one.algorithm.key).encrypt(NONCE, ODD, b"aad")[:-1]),
    "CCM": lambda one: (ODD, ccm(len(ODD), NONCE, b"aad", 8), AESCCM(one.algorithm.key, 8).encrypt(NONCE, ODD, b"aad")),
    "KEY_WRAP": lambda one: (BLOCKS, b"", keywrap.aes_key_wrap(one.algorithm.key, BLOCKS)),
    "KEY_WRAP_PAD": lambda one: (ODD, b"", keywrap.aes_key_wrap_with_padding(one.algorithm.key, ODD)),
    "KEY_WRAP_KWP": lambda one: (ODD, b"", keywrap.aes_key_wrap_with_padding(one.algorithm.key, ODD)),
}


class BlockCipher(Block):
    names = f"AES_({'|'.join(MODES)})|DES3_(ECB|CBC|CBC_PAD)"

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.data, self.parameter, self.expected = MODES[self.name.partition("_")[2]](self)

    def _crypt(self, way, data):
        return self.run.crypt(way, self.session, self.key, self.type, data, self.parameter)

    def encrypt(self):
        assert self._crypt("Encrypt", self.data) == self.expected

    def decrypt(self):
        assert self._crypt("Decrypt", self.expected) == self.data

    def wrap(self):
        key = self.secret(self.data)
        assert self.run.wrap(self.session, self.key, key, self.type, self.parameter) == self.expected

    def unwrap(self):
        template = {**SECRET, **OPEN}
        key = self.run.unwrap(self.session, self.key, self.type, self.expected, template, self.parameter)
        assert self.value(key) == self.data


class Encrypted(Block):
    names = "(AES|DES3)_(ECB|CBC)_ENCRYPT_DATA"

    may_stay = False

    def derive(self):
        base = self.secret(self.octets, self.key_type, DERIVE=TRUE)
        if "ECB" in self.name:
            mode, parameter = modes.ECB(), string(DIGEST)
        else:
            mode, parameter = modes.CBC(self.iv), cbc_data(self.iv, DIGEST)
        key = self.run.derive(self.session, base, self.type, {**SECRET, **OPEN}, parameter)
        assert self.value(key) == self.made(mode, DIGEST)


# -- keys from secret keys


class Derivation(Family):
    """A key from a key: `parts` gives the base key, the mechanism's parameter and the value that is expected."""

    def derive(self):
        base, parameter, expected = self.parts((MESSAGE * 128)[: self.size])
        template = {**SECRET, **OPEN, CKA.VALUE_LEN: ulong(len(expected))}
        key = self.run.derive(self.session, base, self.type, template, parameter)
        assert self.value(key) == expected

    def base(self, value, key_type=CKK.GENERIC_SECRET):
        return self.secret(value, key_type, DERIVE=TRUE)


class HashedKey(Derivation):
    names = r"(MD5|SHA\d+)_KEY_DERIVATION"

    def parts(self, value):
        return self.base(value), b"", hashlib.new(hash_of(self.name)[0], value).digest()


class Joined(Derivation):
    names = "CONCATENATE_(BASE_AND_KEY|BASE_AND_DATA|DATA_AND_BASE)|XOR_BASE_AND_DATA"

    def parts(self, value):
        base = self.base(value)
        if self.name.endswith("KEY"):
            return base, ulongs(self.base(DIGEST)), (value + DIGEST)[:4096]
        if self.name.startswith("XOR"):
            return base, string(DIGEST), bytes(a ^ b for a, b in zip(value, DIGEST, strict=False))
        joined = DIGEST + value if self.name.endswith("BASE") else value + DIGEST
        return base, string(DIGEST), joined[:4096]


class Hkdf(Derivation):
    names = "HKDF_(DERIVE|DATA)"

    def derive(self):
        for key_type in (CKK.HKDF, CKK.GENERIC_SECRET):
            value = (MESSAGE * 128)[: self.size]
            parameter, base = hkdf(CKM.SHA256, b"salt", b"info"), self.base(value, key_type)
            kind = {CKA.CLASS: ulong(CKO.DATA)} if self.name == "HKDF_DATA" else {**SECRET, **OPEN}
            made = self.run.derive(self.session, base, self.type, {**kind, CKA.VALUE_LEN: ulong(50)}, parameter)
            assert self.value(made) == HKDF(hashes.SHA256(), 50, b"salt", b"info").derive(value)
