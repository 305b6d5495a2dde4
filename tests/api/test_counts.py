"""TPM commands on the wire for each call: exactly those of the design, no more."""

import pytest
from cryptoki import SO, USER, Rv
from keys import ec_pair, rsa_pair

from p11tpm.ck import CKA, CKM, CKO, CKR

PIN, SO_PIN = b"123456", b"so-secret"


class Counter:
    """What the wire saw during each step: `step(name, call)`; `counted` is name: number."""

    def __init__(self, proxy):
        self._proxy = proxy
        self.counted = {}

    def __call__(self, step, call):
        self._proxy.clear()
        result = call()
        self.counted[step] = len(self._proxy.commands)
        return result


def wrong_pin(run, session):
    with pytest.raises(Rv) as error:
        run.login(session, USER, b"wrong pin")
    assert error.value == CKR.PIN_INCORRECT


def test_commands_per_call(token, proxy):
    run, count = token, Counter(proxy)
    setup = run.open(run.slots()[0])
    run.login(setup, USER, PIN)
    ec_pair(run, setup)
    run.finalize()

    count("C_Initialize", run.initialize)
    slot = count("C_GetSlotList", run.slots)[0]
    count("C_GetTokenInfo", lambda: run.token_info(slot))
    count("C_GetMechanismList", lambda: run.C_GetMechanismList(slot, run.ffi.NULL, run.ulong()))
    session = count("C_OpenSession", lambda: run.open(slot))
    public = count("find", lambda: run.find(session, {CKA.CLASS: CKO.PUBLIC_KEY.to_bytes(8, "little")}))[0]
    count("attributes", lambda: run.get(session, public, CKA.EC_POINT))
    count("C_Login", lambda: run.login(session, USER, PIN))
    private = count("find private", lambda: run.find(session, {CKA.CLASS: CKO.PRIVATE_KEY.to_bytes(8, "little")}))[0]
    count("first C_Sign", lambda: run.sign(session, private, CKM.ECDSA, bytes(32)))
    for _ in range(5):
        count("next C_Sign", lambda: run.sign(session, private, CKM.ECDSA, bytes(32)))
    count("C_GenerateRandom", lambda: run.random(session, 32))
    count("C_GenerateKeyPair EC", lambda: ec_pair(run, session, id_=b"9"))
    _, rsa = count("C_GenerateKeyPair RSA", lambda: rsa_pair(run, session))
    run.sign(session, rsa, CKM.SHA256_RSA_PKCS, b"x")
    count("next C_Sign RSA", lambda: run.sign(session, rsa, CKM.SHA256_RSA_PKCS, b"x"))
    run.logout(session)
    count("C_SetPIN", lambda: run.set_pin(session, PIN, b"another pin"))
    run.login(session, SO, SO_PIN)
    count("C_InitPIN", lambda: run.init_pin(session, PIN))
    run.logout(session)
    wanted = {
        "C_Initialize": 0,
        "C_GetSlotList": 0,
        "C_GetTokenInfo": 0,
        "C_GetMechanismList": 0,
        "C_OpenSession": 0,
        "find": 0,
        "attributes": 0,
        "C_Login": 4,
        "find private": 0,
        "first C_Sign": 2,
        "next C_Sign": 1,
        "C_GenerateRandom": 1,
        "C_GenerateKeyPair EC": 1,
        "C_GenerateKeyPair RSA": 1,
        "next C_Sign RSA": 1,
        "C_SetPIN": 7,
        "C_InitPIN": 9,
    }
    assert wanted == count.counted


def test_the_same_wrong_pin_is_not_tried_again(token, proxy):
    session = token.open(token.slots()[0])
    wrong_pin(token, session)
    proxy.clear()
    wrong_pin(token, session)
    assert proxy.commands == []


def test_after_a_wrong_pin_the_flags_cost_one_command_a_second(token, proxy):
    slot = token.slots()[0]
    session = token.open(slot)
    wrong_pin(token, session)
    proxy.clear()
    for _ in range(3):
        token.token_info(slot)
    assert len(proxy.commands) == 1
