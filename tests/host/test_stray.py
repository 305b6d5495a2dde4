"""Hosts that leave the parameter of a mechanism that has none unset, as PowerDNS does with its length."""

from __future__ import annotations

import re

from p11tpm.mechanism import MECHANISMS

BEGIN = (  # what a mechanism is given to
    *("Digest", "Encrypt", "Decrypt", "Sign", "SignRecover", "Verify", "VerifyRecover", "DeriveKey", "WrapKey"),
    *("UnwrapKey", "GenerateKey", "GenerateKeyPair"),
)


def test_an_address_and_a_length_that_mean_nothing(hosts, user):
    types = [type_ for type_, row in MECHANISMS.items() if not row.parameter]
    assert len(types) > 40
    said = hosts("stray", user.module, *map(hex, types), env=user.env)
    succeeded = dict(re.fullmatch(r"C_(\w+) succeeded (\d+) times", line).groups() for line in said)
    assert set(succeeded) == set(BEGIN)
    assert all(map(int, succeeded.values())), said
