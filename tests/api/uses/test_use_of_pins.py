"""Logins and PINs in the log of uses."""

from __future__ import annotations

import re

from cryptoki import SO, USER
from keys import ec_pair
from use_log import PIN, SO_PIN, refused

from p11tpm.attribute import TRUE
from p11tpm.ck import CKA, CKM, CKR, CKU


def test_logins_and_pins(token, log):
    slot = token.slots()[0]
    token.C_CloseAllSessions(slot)
    session = token.open(slot)
    refused(CKR.PIN_INCORRECT, token.login, session, USER, b"654321")
    refused(CKR.PIN_INCORRECT, token.login, session, USER, b"7" * 200)
    token.C_LoginUser(session, USER, PIN, len(PIN), token.ffi.NULL, 0)
    refused(CKR.USER_ALREADY_LOGGED_IN, token.login, session, USER, PIN)
    refused(CKR.USER_TYPE_INVALID, token.login, session, 9, PIN)
    refused(CKR.PIN_INCORRECT, token.set_pin, session, b"654321", b"1234567")
    token.set_pin(session, PIN, b"1234567")
    token.logout(session)
    refused(CKR.USER_NOT_LOGGED_IN, token.init_pin, session, PIN)
    token.login(session, SO, SO_PIN)
    token.init_pin(session, PIN)
    token.set_pin(session, SO_PIN, b"so-secret-2")
    refused(CKR.SESSION_EXISTS, token.init_token, slot, b"so-secret-2", "new")
    token.close(session)
    refused(CKR.PIN_LEN_RANGE, token.init_token, slot, b"7" * 200, "new")
    token.init_token(slot, b"so-secret-2", "new")
    said = [(use["use"], use["token"], use["role"], use["answer"]) for use in log.uses()]
    old = "test token"
    assert said == [
        ("login", old, "user", "CKR_PIN_INCORRECT"),
        ("login", old, "user", "CKR_PIN_INCORRECT"),
        ("login", old, "user", "CKR_OK"),
        ("login", old, "user", "CKR_USER_ALREADY_LOGGED_IN"),
        ("login", old, "0x9", "CKR_USER_TYPE_INVALID"),
        ("set-pin", old, "user", "CKR_PIN_INCORRECT"),
        ("set-pin", old, "user", "CKR_OK"),
        ("init-pin", old, "user", "CKR_USER_NOT_LOGGED_IN"),
        ("login", old, "so", "CKR_OK"),
        ("init-pin", old, "user", "CKR_OK"),
        ("set-pin", old, "so", "CKR_OK"),
        ("init-token", old, "so", "CKR_SESSION_EXISTS"),
        ("init-token", old, "so", "CKR_PIN_LEN_RANGE"),
        ("init-token", "new", "so", "CKR_OK"),
    ]
    pins = (PIN, SO_PIN, b"654321", b"1234567", b"7777", b"so-secret-2")
    assert not [pin for pin in pins if re.search(rf'["= ]{pin.decode()}', log.text)]


def test_a_wrong_pin_of_the_so(token, log):
    slot = token.slots()[0]
    token.C_CloseAllSessions(slot)
    refused(CKR.PIN_INCORRECT, token.init_token, slot, b"654321", "new")
    refused(CKR.SLOT_ID_INVALID, token.init_token, 99, SO_PIN, "new")
    said = [(use["use"], use["token"], use["answer"]) for use in log.uses()]
    place = ("init-token", "test token", "CKR_PIN_INCORRECT")
    assert said == [place, ("init-token", "", "CKR_SLOT_ID_INVALID")]


def test_a_pin_before_each_use(token, session, log):
    more = {"private": {CKA.ALWAYS_AUTHENTICATE: TRUE}}
    _, private = ec_pair(token, session, **more)
    log.uses()
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), private)
    refused(CKR.PIN_INCORRECT, token.login, session, CKU.CONTEXT_SPECIFIC, b"654321")
    token.login(session, CKU.CONTEXT_SPECIFIC, PIN)
    token.bytes_of(lambda *out: token.C_Sign(session, bytes(32), 32, *out))
    refused(CKR.USER_NOT_LOGGED_IN, token.sign, session, private, CKM.ECDSA, bytes(32))
    uses = log.uses()
    assert [(use["use"], use.get("role"), use["answer"]) for use in uses] == [
        ("login", "context-specific", "CKR_PIN_INCORRECT"),
        ("login", "context-specific", "CKR_OK"),
        ("sign", None, "CKR_OK"),
        ("sign", None, "CKR_USER_NOT_LOGGED_IN"),
    ]
