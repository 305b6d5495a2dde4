"""Exercises of the mechanisms of DSA and DH, whose key pairs share domain parameters."""

from __future__ import annotations

from functools import lru_cache
from secrets import randbits

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from exercise import DIGEST, MESSAGE, OPEN, SECRET, Family, hash_of
from keys import as_bytes, der_signature

from p11tpm.attribute import TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO

SUBPRIME = 2**256 - 189
FACTORS = {  # bits: a prime is 1 + 2 * the subprime * this
    1024: (3 << 765) + 917,
    2048: (3 << 1789) + 1152,
    3072: (3 << 2813) + 122,
    4096: (3 << 3837) + 2138,
}
PUBLIC, PRIVATE = {CKA.CLASS: ulong(CKO.PUBLIC_KEY)}, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)}


def template_of(numbers):
    """Return the domain parameters of DSA as attributes."""
    return {CKA.PRIME: as_bytes(numbers.p), CKA.SUBPRIME: as_bytes(numbers.q), CKA.BASE: as_bytes(numbers.g)}


@lru_cache
def dsa_domain(bits):
    prime = 1 + 2 * SUBPRIME * FACTORS[bits]
    return dsa.DSAParameterNumbers(prime, SUBPRIME, pow(2, (prime - 1) // SUBPRIME, prime))


@lru_cache
def dsa_key(bits):
    return dsa_domain(bits).parameters().generate_private_key()


class Domain(Family):
    """Domain parameters of the token's making."""

    names = "(DSA|DH_PKCS)_PARAMETER_GEN"

    def numbers(self, type_):
        handle = self.run.ulong()
        template = self.run.template({CKA.PRIME_BITS: ulong(self.size)})
        self.run.C_GenerateKey(self.session, self.run.mechanism(type_), *template, handle)
        wanted = (CKA.PRIME, CKA.BASE) + ((CKA.SUBPRIME,) if type_ == CKM.DSA_PARAMETER_GEN else ())
        return [int.from_bytes(self.run.get(self.session, handle[0], one), "big") for one in wanted]

    def generate(self):
        prime, base, *subprime = self.numbers(self.type)
        assert prime.bit_length() == self.size
        assert all(pow(2, number - 1, number) == 1 for number in (prime, *subprime))
        if subprime:
            assert (prime - 1) % subprime[0] == 0
            assert pow(base, subprime[0], prime) == 1 < base
            dsa.DSAParameterNumbers(prime, subprime[0], base).parameters().generate_private_key()


class DsaKeys(Family):
    names = "DSA_KEY_PAIR_GEN"

    def generate_key_pair(self):
        numbers = dsa_domain(self.size)
        handles = self.run.generate_pair(self.session, self.type, template_of(numbers), {})
        public = int.from_bytes(self.run.get(self.session, handles[0], CKA.VALUE), "big")
        signature = self.run.sign(self.session, handles[1], CKM.DSA_SHA256, MESSAGE)
        key = dsa.DSAPublicNumbers(public, numbers).public_key()
        key.verify(der_signature(signature), MESSAGE, hashes.SHA256())


class Dsa(Family):
    names = r"DSA(_SHA\d+)?"

    def __init__(self, *args):
        super().__init__(*args)
        self.key = dsa_key(self.size)
        self.domain = {CKA.KEY_TYPE: ulong(CKK.DSA), **template_of(dsa_domain(self.size))}
        plain = self.name == "DSA"
        self.data = DIGEST if plain else MESSAGE
        self.hash = Prehashed(hashes.SHA256()) if plain else hash_of(self.name)[1]

    def sign(self):
        value = as_bytes(self.key.private_numbers().x)
        private = self.create({**PRIVATE, **self.domain, CKA.VALUE: value})
        signature = self.run.sign(self.session, private, self.type, self.data)
        self.key.public_key().verify(der_signature(signature), self.data, self.hash)

    def verify(self):
        value = as_bytes(self.key.public_key().public_numbers().y)
        public = self.create({**PUBLIC, **self.domain, CKA.VALUE: value})
        pair = decode_dss_signature(self.key.sign(self.data, self.hash))
        self.verified(public, self.data, b"".join(as_bytes(one, 32) for one in pair))


class Dh(Domain):
    """Key agreement in a group that the token knows by its size, compared with the formula."""

    names = "DH_PKCS_(KEY_PAIR_GEN|DERIVE)"

    def __init__(self, *args):
        super().__init__(*args)
        self.prime, self.base = self.numbers(CKM.DH_PKCS_PARAMETER_GEN)
        self.domain = {CKA.PRIME: as_bytes(self.prime), CKA.BASE: as_bytes(self.base)}

    def agree(self, private, public):
        """Agree with another key, which knows the public value."""
        other = randbits(256)
        template = {**SECRET, **OPEN, CKA.VALUE_LEN: ulong(32)}
        theirs = as_bytes(pow(self.base, other, self.prime))
        key = self.run.derive(self.session, private, CKM.DH_PKCS_DERIVE, template, theirs)
        assert self.value(key) == as_bytes(pow(public, other, self.prime), self.size // 8)[-32:]

    def generate_key_pair(self):
        handles = self.run.generate_pair(self.session, self.type, self.domain, {CKA.DERIVE: TRUE})
        self.agree(handles[1], int.from_bytes(self.run.get(self.session, handles[0], CKA.VALUE), "big"))

    def derive(self):
        value = randbits(256)
        template = {**PRIVATE, **self.domain, CKA.KEY_TYPE: ulong(CKK.DH), CKA.DERIVE: TRUE}
        self.agree(self.create({**template, CKA.VALUE: as_bytes(value)}), pow(self.base, value, self.prime))
