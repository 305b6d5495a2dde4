"""The wire against ESAPI: the same results from the same TPM, for every command of the hot path.

1,000 random inputs each with P11TPM_FUZZ_ROUNDS=1000; a seed that fails is in the name of the assertion.
"""

from __future__ import annotations

import os
import random

import pytest
import tpm2_pytss as tss
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

import rig
from fuzz.effort import rounds
from fuzz.referee import Referee
from p11tpm.error import TpmError
from p11tpm.tpm import Key, Tpm, command, provision, template
from p11tpm.tpm.codec import Reader, name_of, sized, u16, u32
from p11tpm.tpm.tpm import repeated
from unit.tpm_ground import CURVES, public_key

COUNT = rounds(15, 1000)
DIGESTS = {  # size: TPM_ALG_ID and the hash it stands for
    20: (0x0004, hashes.SHA1()),
    32: (0x000B, hashes.SHA256()),
    48: (0x000C, hashes.SHA384()),
    64: (0x000D, hashes.SHA512()),
}


class Ring:
    """A TPM with one kind of storage root key, ours on one side and the referee on the other."""

    def __init__(self, swtpm: rig.Swtpm) -> None:
        self.swtpm = swtpm
        self.tpm = Tpm(swtpm.tcti)
        self.srk = provision.provision(self.tpm).srk
        assert self.srk.handle == provision.SRK_HANDLE
        self.referee = Referee(swtpm, self.srk.handle)
        self._keys: dict[str, Key] = {}

    def key(self, kind: str) -> Key:
        """Return a key of a kind, made when it is first asked for: "p256" ... or "rsa"."""
        if kind not in self._keys:
            public = template.rsa(2048) if kind == "rsa" else template.ec(kind)
            auth = os.urandom(32)
            blob = self.tpm.create(public, auth)
            self._keys[kind] = Key(kind, blob.public, blob.private, auth)
        return self._keys[kind]

    def close(self) -> None:
        self.tpm.release()
        self.referee.esapi.close()


def make_srk(swtpm: rig.Swtpm, kind: str) -> None:
    attributes = "restricted|decrypt|noda|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    context = str(swtpm.directory / "srk.context")
    digest = "sha384" if kind == "ecc384" else "sha256"
    swtpm.tool("createprimary", "-C", "o", "-G", kind, "-g", digest, "-a", attributes, "-c", context)
    swtpm.tool("evictcontrol", "-C", "o", "-c", context, f"{provision.SRK_HANDLE:#x}")
    swtpm.flush()


@pytest.fixture(scope="module", params=["rsa2048", "ecc256", "ecc384"])
def ring(request):
    with rig.Swtpm(max_tries=32) as swtpm:
        make_srk(swtpm, request.param)
        ring = Ring(swtpm)
        yield ring
        ring.close()


@pytest.fixture
def dice(request):
    """Random inputs that are the same in each run of a test."""
    return random.Random(request.node.name)


def a_value(dice: random.Random, most: int) -> bytes:
    """An authorisation value or data: of any length, now and then with zero bytes at its ends."""
    value = dice.randbytes(dice.randrange(most + 1))
    return dice.choice([value, value, value[:-1] + b"\0" if value else b"", b"\0" + value[1:] if value else b""])


def test_start_auth_session(ring, dice):
    """Each side starts sessions with the same salt key, and has the TPM prove in them that it knows their key."""
    for _ in range(COUNT):
        ring.tpm.release()
        size = dice.randrange(1, 33)
        assert len(ring.tpm.random(size)) == size
        with ring.referee.session() as session:
            ring.referee.esapi.get_random(size, session1=session)
    ring.tpm.release()
    assert ring.swtpm.loaded() == []


def test_get_random(ring, dice):
    seen = set()
    for _ in range(COUNT):
        size = dice.randrange(16, 65)
        ours, theirs = ring.tpm.random(size), bytes(ring.referee.esapi.get_random(size))
        assert len(ours) == size
        assert len(theirs) == min(size, 64)
        seen |= {ours, theirs}
    assert len(seen) == 2 * COUNT


def load(ring: Ring, blob, *, salted: bool) -> tuple[int, bytes]:
    return repeated(lambda tpm: tpm.loaded.load(blob, salted=salted))(ring.tpm)


def test_load(ring, dice):
    """Objects that ESAPI made: the Name that the wire computes is the one that ESAPI and the TPM have."""
    for _ in range(COUNT):
        blob = ring.referee.create(template.so(), a_value(dice, 32), dice.randbytes(dice.randrange(1, 129)))
        salted = dice.random() < 0.5
        handle, name = load(ring, blob, salted=salted)
        with ring.referee.loaded(blob) as theirs:
            assert name == bytes(ring.referee.esapi.tr_get_name(theirs)) == name_of(blob.public)
        _, read = ring.tpm.wire.plain(command.READ_PUBLIC, u32(handle))
        assert Reader(read).buffer() == blob.public
        ring.tpm.loaded.flush(handle)


def test_unseal(ring, dice):
    for _ in range(COUNT):
        auth, data = a_value(dice, 32), dice.randbytes(dice.randrange(1, 129))
        blob = ring.referee.create(template.so(), auth, data)
        assert ring.tpm.unseal(blob, auth) == data
        assert ring.referee.unseal(blob, auth) == data


def test_create(ring, dice):
    """What the wire made, ESAPI loads and uses: the authorisation value and the data arrived as they were meant."""
    ring.tpm.release()
    for _ in range(COUNT):
        auth = a_value(dice, 32)
        if dice.random() < 0.5:
            data = dice.randbytes(dice.randrange(1, 129))
            assert ring.referee.unseal(ring.tpm.create(template.so(), auth, data), auth) == data
            continue
        curve = dice.choice(["p256", "p384"])
        blob = ring.tpm.create(template.ec(curve), auth)
        digest = dice.randbytes(32)
        r, s = ring.referee.sign(blob, auth, digest, 0x000B)
        verify(Key(0, blob.public, blob.private, auth), digest, (r, s))


def verify(key: Key, digest: bytes, pair: tuple[int, int]) -> None:
    scheme = ec.ECDSA(utils.Prehashed(DIGESTS[len(digest)][1]))
    public_key(key).verify(utils.encode_dss_signature(*pair), digest, scheme)


def test_sign(ring, dice):
    for _ in range(COUNT):
        key, size = ring.key(dice.choice(sorted(CURVES))), dice.choice(sorted(DIGESTS))
        digest = dice.choice([dice.randbytes(size), bytes(size - 1) + b"\1", b"\xff" * size])
        pair = ring.tpm.sign(key, digest)
        verify(key, digest, pair)
        ring.tpm.release()
        ring.referee.accepts(key.public, digest, DIGESTS[size][0], pair)
        verify(key, digest, ring.referee.sign(key, key.auth, digest, DIGESTS[size][0]))


def test_rsa_decrypt(ring, dice):
    key = ring.key("rsa")
    modulus, _ = template.rsa_numbers(key.public)
    for _ in range(COUNT):
        number = dice.choice(
            [dice.randrange(modulus), dice.randrange(1 << dice.randrange(2048)) % modulus, modulus - 1]
        )
        block = number.to_bytes(256, "big")
        ours = ring.tpm.rsa(key, block)
        ring.tpm.release()
        assert ours == ring.referee.rsa(key, key.auth, block).rjust(256, b"\0")
        assert pow(int.from_bytes(ours, "big"), 65537, modulus) == number


def test_ecdh_zgen(ring, dice):
    for _ in range(COUNT):
        name = dice.choice(sorted(CURVES))
        key, curve = ring.key(name), CURVES[name][0]
        other = ec.derive_private_key(dice.randrange(1, 1 << (curve.key_size - 1)), curve)
        point = other.public_key().public_numbers()
        size = (curve.key_size + 7) // 8
        ours = ring.tpm.ecdh(key, (point.x, point.y))
        ring.tpm.release()
        coordinates = (point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big"))
        assert ours == ring.referee.ecdh(key, key.auth, coordinates).rjust(size, b"\0")
        assert ours == other.exchange(ec.ECDH(), public_key(key))


def our_capability(ring: Ring, *numbers: int) -> bytes | int:
    parameters = b"".join(map(u32, numbers))
    try:
        return repeated(lambda tpm: tpm.wire.plain(command.GET_CAPABILITY, parameters=parameters))(ring.tpm)[1]
    except TpmError as error:
        return error.code


def their_capability(ring: Ring, *numbers: int) -> bytes | int:
    try:
        return ring.referee.capability(*numbers)
    except tss.TSS2_Exception as error:
        return error.rc


def test_get_capability(ring, dice):
    ring.tpm.release()
    for _ in range(COUNT):
        capability = dice.choice([0, 1, 2, 5, 6, 8])  # TPM_CAP: Part 2, clause 6.12
        first = dice.choice({1: [0x80000000, 0x81000000, 0x02000000]}.get(capability, [0, 0x100, 0x200, 0x20E]))
        count = dice.randrange(1, 65)
        assert our_capability(ring, capability, first, count) == their_capability(ring, capability, first, count)
    state = ring.tpm.lockout()
    _, answer = ring.referee.esapi.get_capability(tss.TPM2_CAP.TPM_PROPERTIES, 0x200, 64)
    theirs = {entry.property: entry.value for entry in answer.data.tpmProperties}
    numbers = [theirs[0x20E + index] for index in range(4)]
    assert [state.counter, state.max_tries, state.interval, state.recovery] == numbers
    assert (state.locked, state.auth_set) == (bool(theirs[0x200] & 1 << 9), bool(theirs[0x200] & 1 << 2))


def test_flush_context(ring, dice):
    """What either side flushes is gone for the other."""
    blob = ring.referee.create(template.so(), b"", b"data")
    for _ in range(COUNT):
        ring.tpm.release()
        if dice.random() < 0.5:
            handle, _ = load(ring, blob, salted=True)
            ring.tpm.loaded.flush(handle)
        else:
            with ring.referee.loaded(blob):
                pass
        ring.tpm.release()
        for first in (0x80000000, 0x02000000):
            assert ring.referee.capability(1, first, 8) == b"\0" + u32(1) + u32(0)


def test_the_lengths_of_what_is_hidden(ring):
    """Parameter encryption at every length that a sealed object can have, through the wire alone and through ESAPI."""
    for size in range(1, 129, 1 if COUNT >= 128 else 9):
        data = os.urandom(size)
        blob = ring.tpm.create(template.so(), b"auth", data)
        assert ring.tpm.unseal(blob, b"auth") == data == ring.referee.unseal(blob, b"auth")
    assert sized(b"") == u16(0)
