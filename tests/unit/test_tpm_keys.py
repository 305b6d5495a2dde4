"""Keys in a TPM: what they do, checked by another implementation, and what that costs in commands."""

from __future__ import annotations

import os
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from p11tpm.tpm import Key, Srk, Tpm, template
from p11tpm.tpm.loaded import LOADED_KEYS
from rig.deadline import join
from unit.tpm_ground import CURVES, SECRET, USER, Ground, public_key, timer_threads


@pytest.fixture
def ground(proxy):
    with Ground(proxy) as ground:
        yield ground


@pytest.mark.parametrize("curve", CURVES)
def test_ec_keys(ground, curve):
    key = ground.key(template.ec(curve))
    for _ in range(4):
        ground.sign(key)
    other = ec.generate_private_key(CURVES[curve][0])
    point = other.public_key().public_numbers()
    for _ in range(4):
        assert ground.tpm.ecdh(key, (point.x, point.y)) == other.exchange(ec.ECDH(), public_key(key))


@pytest.mark.parametrize("size", [20, 32, 48, 64])
def test_a_digest_of_any_usual_size_is_signed(ground, size):
    key = ground.key(template.ec("p256"))
    r, s = ground.tpm.sign(key, os.urandom(size))
    assert min(r, s) > 0
    assert max(r, s).bit_length() <= 256


def test_rsa_is_the_raw_private_operation(ground):
    key = ground.key(template.rsa(2048))
    modulus, exponent = template.rsa_numbers(key.public)
    assert (modulus.bit_length(), exponent) == (2048, 65537)
    for block in (b"\0\1" + os.urandom(254), bytes(255) + b"\1", bytes(200) + os.urandom(56)):
        result = ground.tpm.rsa(key, block)
        assert len(result) == 256
        assert pow(int.from_bytes(result, "big"), exponent, modulus) == int.from_bytes(block, "big")


def test_random_bytes(ground):
    for count in (0, 1, 32, 33, 200):
        assert len(ground.tpm.random(count)) == count
    assert ground.tpm.random(32) != ground.tpm.random(32)


def test_command_counts(ground, swtpm):
    proxy = ground.proxy

    def counted() -> list[str]:
        names = proxy.names
        proxy.clear()
        return names

    ground.unseal()
    assert counted() == ["StartAuthSession", "Load", "Unseal", "FlushContext"]
    key = ground.key(template.ec("p256"))
    assert counted() == ["Create"]
    ground.sign(key)
    assert counted() == ["Load", "Sign"]
    ground.sign(key)
    assert counted() == ["Sign"]
    ground.tpm.random(32)
    assert counted() == ["GetRandom"]
    ground.tpm.lockout()
    assert counted() == ["GetCapability"]
    ground.tpm.release()
    assert counted() == ["FlushContext", "FlushContext"]
    assert swtpm.loaded() == []
    assert Tpm(proxy.tcti).connection.epoch == 0
    assert counted() == []


def test_a_signature_after_a_pause_needs_no_salt(ground):
    key = ground.key(template.ec("p256"))
    ground.start_again()
    ground.sign(key)
    assert ground.proxy.names == ["StartAuthSession", "Load", "Sign"]
    assert len(ground.proxy.commands[0].request) < 80, "an unsalted session has no encrypted secret"
    ground.proxy.clear()
    assert ground.unseal() == SECRET
    assert ground.proxy.names == [
        "FlushContext",  # the key, to make room
        "FlushContext",  # the session without a salt
        "StartAuthSession",
        "Load",
        "Unseal",
        "FlushContext",
    ]


def test_any_number_of_keys_in_turn(ground, swtpm):
    keys = [ground.key(template.ec("p256")) for _ in range(6)]
    for key in keys * 2:
        ground.sign(key)
    assert len([handle for handle in swtpm.loaded() if handle.startswith("0x8")]) == LOADED_KEYS
    ground.proxy.clear()
    ground.sign(keys[-1])
    assert ground.proxy.names == ["Sign"]
    ground.tpm.forget(keys[-1].id)
    ground.tpm.forget(keys[0].id)
    assert ground.proxy.names == ["Sign", "FlushContext"]


def test_threads_take_turns(ground):
    keys = [ground.key(template.ec("p256")) for _ in range(4)]
    failures = []

    def work(key: Key) -> None:
        try:
            for _ in range(15):
                ground.sign(key)
        except Exception as error:  # noqa: BLE001 - reported by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(key,), daemon=True) for key in keys]
    for thread in threads:
        thread.start()
    join(*threads)
    assert failures == []


def tools_srk(swtpm, kind: str) -> Srk:
    """A storage root key made by tpm2-tools."""
    attributes = "restricted|decrypt|noda|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    context, public = swtpm.directory / "srk.context", swtpm.directory / "srk.public"
    digest = "sha384" if kind == "ecc384" else "sha256"
    swtpm.tool("createprimary", "-C", "o", "-G", kind, "-g", digest, "-a", attributes, "-c", str(context))
    swtpm.tool("evictcontrol", "-C", "o", "-c", str(context), "0x81000001")
    swtpm.flush()
    swtpm.tool("readpublic", "-c", "0x81000001", "-f", "tpmt", "-o", str(public))
    return Srk(0x81000001, public.read_bytes())


@pytest.mark.parametrize("kind", ["rsa2048", "ecc256", "ecc384"])
def test_storage_root_keys_of_every_kind(swtpm, proxy, kind):
    srk = tools_srk(swtpm, kind)
    ground = Ground(proxy)
    assert (ground.srk.handle, ground.srk.public, ground.srk.name) == (srk.handle, srk.public, srk.name)
    assert ground.unseal(USER) == SECRET
    ground.sign(ground.key(template.ec("p256")))


def test_without_a_timer_thread_nothing_is_kept(proxy, swtpm):
    ground = Ground(proxy, idle_seconds=0)
    key = ground.key(template.ec("p256"))
    ground.sign(key)
    assert ground.unseal() == SECRET
    assert swtpm.loaded() == []
    assert timer_threads() == 0
