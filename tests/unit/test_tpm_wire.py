"""What somebody who listens on the TPM's bus sees of the secrets."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from p11tpm.tpm import command, provision, template
from unit.tpm_ground import NEW, SECRET, SO, USER, Ground, create_token


@pytest.fixture
def ground(proxy):
    with Ground(proxy) as ground:
        yield ground


def seen(ground: Ground, *secrets: bytes) -> int:
    wire = [part for entry in ground.proxy.commands for part in (entry.request, entry.response)]
    assert wire
    return sum(secret in part for part in wire for secret in secrets)


def test_no_secret_is_on_the_wire(proxy):
    ground = Ground(proxy)
    tpm = ground.tpm
    create_token(tpm, SO, USER, SECRET)
    ground.unseal()
    so_data = tpm.unseal(ground.so, SO)
    user = provision.change_user_auth(tpm, ground.user, ground.branches, USER, NEW)
    provision.reset_user_auth(tpm, user, ground.so, ground.branches, SO, USER)
    provision.change_auth(tpm, ground.so, SO, NEW)
    random = tpm.random(32)
    key, other = ground.key(template.rsa(2048)), ground.key(template.ec("p256"))
    block = bytes(128) + os.urandom(128)  # a ciphertext or a padded digest: no secret
    result = tpm.rsa(key, block)
    private = ec.generate_private_key(ec.SECP256R1())
    point = private.public_key().public_numbers()
    shared = tpm.ecdh(other, (point.x, point.y))
    ground.sign(other)
    secrets = [SECRET, SO, USER, NEW, so_data, random, result, shared, key.auth, other.auth]
    assert seen(ground, *secrets) == 0
    assert seen(ground, *[secret[8:24] for secret in secrets]) == 0


def test_without_encryption_it_would_be(ground, monkeypatch):
    monkeypatch.setattr(command.UNSEAL, "hidden", False)
    monkeypatch.setattr(command.CREATE, "hides", False)
    assert ground.unseal() == SECRET
    assert seen(ground, SECRET) == 1
    key = ground.key(template.ec("p256"))
    assert seen(ground, key.auth) == 1


def test_the_same_command_never_looks_the_same(ground):
    key = ground.key(template.ec("p256"))
    ground.sign(key)
    ground.proxy.clear()
    for _ in range(3):
        ground.tpm.sign(key, bytes(32))
    assert len({entry.request for entry in ground.proxy.commands}) == 3
