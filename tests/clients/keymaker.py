"""One of several programs that make, use and delete keys of one token at a time, by python-pkcs11.

Arguments: the module, the token's label, the file with the PIN, and for how many seconds to work; with 0 it makes none,
but says what keys there are. Each line on stdout is a word and the id of a key: what is about to be done, and what was.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pkcs11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.constants import DEFAULT
from pkcs11.util.ec import encode_named_curve_parameters

P256 = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
# tpm2-pkcs11 refuses usages that are spelt out as False, as python-pkcs11 does unless it is told to leave them out
PUBLIC = dict.fromkeys((Attribute.ENCRYPT, Attribute.WRAP), DEFAULT)
PRIVATE = dict.fromkeys((Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE), DEFAULT)
LABEL = "parallel"


def say(word: str, key_id: bytes) -> None:
    """Print at once: a program that is killed has printed it by then."""
    print(word, key_id.hex(), flush=True)  # noqa: T201 - the test reads it


def works(public: pkcs11.PublicKey, private: pkcs11.PrivateKey) -> bool:
    """Whether OpenSSL takes a signature by the one for one of the other."""
    digest = os.urandom(32)
    signature = private.sign(digest, mechanism=Mechanism.ECDSA)
    pair = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    point = public[Attribute.EC_POINT][2:]  # without the head of the OCTET STRING
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    try:
        key.verify(utils.encode_dss_signature(*pair), digest, ec.ECDSA(utils.Prehashed(SHA256())))
    except InvalidSignature:
        return False
    return True


def work(session: pkcs11.Session, seconds: float) -> None:
    """Make a key, find it, use it and delete it, until the time is over."""
    curve = session.create_domain_parameters(KeyType.EC, P256, local=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        key_id = os.urandom(8)
        say("making", key_id)
        curve.generate_keypair(store=True, id=key_id, label=LABEL, public_template=PUBLIC, private_template=PRIVATE)
        say("made", key_id)
        public = session.get_key(ObjectClass.PUBLIC_KEY, id=key_id)
        private = session.get_key(ObjectClass.PRIVATE_KEY, id=key_id)
        assert works(public, private)
        say("deleting", key_id)
        private.destroy()
        public.destroy()
        say("deleted", key_id)


def survey(session: pkcs11.Session) -> None:
    """Print of each key whether it is a "pair" that works, or what else it is."""
    halves: dict[bytes, dict[ObjectClass, pkcs11.Object]] = {}
    for key in list(session.get_objects({Attribute.LABEL: LABEL})):
        halves.setdefault(key[Attribute.ID], {})[key.object_class] = key
    for key_id, both in halves.items():
        public, private = both.get(ObjectClass.PUBLIC_KEY), both.get(ObjectClass.PRIVATE_KEY)
        if public and private:
            say("pair" if works(public, private) else "mismatch", key_id)
        else:
            say("public" if public else "private", key_id)


def main(module: str, token: str, pin_file: str, seconds: float) -> None:
    pin = Path(pin_file).read_text()
    with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
        if seconds:
            work(session, seconds)
        else:
            survey(session)


if __name__ == "__main__":
    main(*sys.argv[1:4], float(sys.argv[4]))
