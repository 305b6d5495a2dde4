"""Random numbers: seeds that the TPM takes, and keys that are made of the TPM's numbers and the system's."""

import pytest

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKM, CKR


def names(proxy):
    return [command.name for command in proxy.commands]


@pytest.mark.parametrize(("length", "commands"), [(0, 0), (1, 1), (128, 1), (129, 2), (1000, 8)])
def test_a_seed_needs_no_login(token, proxy, length, commands):
    session = token.open(token.slots()[0])
    proxy.clear()
    token.C_SeedRandom(session, bytes(range(256)) * 4, length)
    assert names(proxy) == ["StirRandom"] * commands
    assert b"".join(command.request[12:] for command in proxy.commands) == (bytes(range(256)) * 4)[:length]
    assert len(set(token.random(session, 100))) > 30


def test_seeds_that_are_none(token, session):
    assert token.raw.C_SeedRandom(session, token.ffi.NULL, 1) == CKR.ARGUMENTS_BAD
    assert token.raw.C_SeedRandom(session, b"x", 1 << 40) == CKR.ARGUMENTS_BAD
    assert token.raw.C_SeedRandom(session + 1, b"x", 1) == CKR.SESSION_HANDLE_INVALID


def test_more_than_a_mebibyte_in_one_call(token, session):
    length = (1 << 20) + 4097
    out = token.ffi.new("CK_BYTE[]", length + 1)
    token.C_GenerateRandom(session, out, length)
    given = bytes(token.ffi.buffer(out))
    pieces = {given[at : at + 16] for at in range(0, length - 15, 16)}
    assert len(pieces) == length // 16
    assert given[length - 16 : length] != bytes(16)
    assert given[length] == 0


def test_the_tpm_has_its_share_in_keys_that_are_kept(token, session, proxy):
    token.random(session, 1)
    values, handle = set(), token.ulong()
    for kept, commands in ((TRUE, ["GetRandom"]), (FALSE, [])):
        for length in (16, 32):
            proxy.clear()
            template = {CKA.TOKEN: kept, CKA.VALUE_LEN: ulong(length), CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE}
            mechanism = token.mechanism(CKM.AES_KEY_GEN)
            token.C_GenerateKey(session, mechanism, *token.template(template), handle)
            assert names(proxy) == commands
            value = token.get(session, handle[0], CKA.VALUE)
            assert len(value) == length
            values.add(value)
    assert len(values) == 4
