"""Many keys, threads and sessions on the few places that a TPM has, with a resource manager and without."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

KEYS, SESSIONS = 100, 4096


def words(said, word):
    return [bytes.fromhex(line.split()[1]) for line in said if line.startswith(f"{word} ")]


@pytest.mark.parametrize("somebody", ["user", "owner"], ids=["tabrmd", "swtpm"])
def test_a_hundred_keys_sixteen_threads_four_thousand_sessions(hosts, request, somebody):
    owner = request.getfixturevalue(somebody)
    said = hosts("many", owner.module, env=owner.env)
    points, signatures = words(said, "key"), words(said, "signature")
    assert len(points) == len(signatures) == KEYS
    for point, signature in zip(points, signatures, strict=True):
        key = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point[2:])
        pair = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        key.verify(encode_dss_signature(*pair), b"\x11" * 32, ECDSA(Prehashed(SHA256())))
    assert said[-1] == f"sessions {SESSIONS + 1}"
