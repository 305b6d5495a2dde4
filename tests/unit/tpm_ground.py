"""What the tests of the TPM layer stand on: a provisioned TPM, a token's objects, keys of any kind, and a referee."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from p11tpm.tpm import Blob, Key, Tpm, policy, provision, template

if TYPE_CHECKING:
    from p11tpm.tpm import Srk
    from rig import CountingProxy

SO, USER, NEW, WRONG = (bytes([letter]) * 31 + b"\x01" for letter in b"sunw")
SECRET = b"the secret of a token is 32 long"
CURVES = {
    "p256": (ec.SECP256R1(), hashes.SHA256()),
    "p384": (ec.SECP384R1(), hashes.SHA384()),
    "p521": (ec.SECP521R1(), hashes.SHA512()),
}


def create_token(tpm: Tpm, so_auth: bytes, auth: bytes, secret: bytes, *, no_pin: bool = False) -> tuple[Blob, Blob]:
    """Make the objects of a token: the one that knows the SO's PIN, and the one that seals `secret` by the user's."""
    so = provision.create_so(tpm, so_auth)
    return so, provision.create_user(tpm, policy.branches(so.public), auth, secret, no_pin=no_pin)


class Ground:
    """A token on a TPM that a proxy watches; `key` makes more."""

    def __init__(self, proxy: CountingProxy, idle_seconds: float = 10) -> None:
        self.proxy = proxy
        self.tpm = Tpm(proxy.tcti, idle_seconds)
        self.provision = provision.provision(self.tpm)
        self.srk: Srk = self.provision.srk
        self.so, self.user = create_token(self.tpm, SO, USER, SECRET)
        self.unseal()  # the first use of such an object after a start answers RETRY, once
        self.start_again()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tpm.release()

    def start_again(self) -> None:
        """As a new process finds the TPM: no session, nothing loaded."""
        self.tpm.release()
        self.proxy.clear()

    @property
    def branches(self) -> tuple[bytes, ...]:
        """The policies that the user's object accepts."""
        return policy.branches(self.so.public)

    def unseal(self, auth: bytes = USER) -> bytes:
        return self.tpm.unseal(self.user, auth)

    def key(self, public: bytes) -> Key:
        auth = os.urandom(32)
        blob = self.tpm.create(public, auth)
        return Key(os.urandom(16), blob.public, blob.private, auth)

    def sign(self, key: Key) -> None:
        """Sign something of the curve's usual size and have another implementation verify it."""
        curve, digest = CURVES[template.curve(key.public)]
        data = os.urandom(digest.digest_size)
        r, s = self.tpm.sign(key, data)
        public_key(key).verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(utils.Prehashed(digest)))
        assert max(r, s).bit_length() <= curve.key_size


def timer_threads() -> int:
    """Count the idle timers of this process."""
    count = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            count += (task / "comm").read_text().strip() == "p11tpm-idle"
    return count


def public_key(key: Key) -> ec.EllipticCurvePublicKey:
    x, y = template.ec_point(key.public)
    return ec.EllipticCurvePublicNumbers(x, y, CURVES[template.curve(key.public)][0]).public_key()
