"""A line of the log of uses, whose names anyone may choose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from use_log import AES, DATA, SECRET, SO_PIN, TAIL, VALUE

from p11tpm.attribute import FALSE, TRUE
from p11tpm.ck import CKA, CKM


def test_a_line(token, session, keys, log):
    token.sign(session, keys["private"], CKM.ECDSA_SHA256, DATA)
    (use,) = log.uses()
    assert use == {
        "use": "sign",
        "token": "test token",
        "class": "CKO_PRIVATE_KEY",
        "label": "pair",
        "id": "0aff",
        "mechanism": "CKM_ECDSA_SHA256",
        "answer": "CKR_OK",
        "program": Path("/proc/self/comm").read_text().rstrip("\n"),
        "uid": str(os.getuid()),
        "euid": str(os.geteuid()),
    }
    named = ["class", "label", "id"]
    assert list(use) == ["use", "token", *named, "mechanism", "answer", *TAIL]
    wrapped = token.wrap(session, keys["aes"], keys["hmac"], CKM.AES_KEY_WRAP)
    token.unwrap(session, keys["aes"], CKM.AES_KEY_WRAP, wrapped, {**SECRET, CKA.LABEL: b"new", CKA.ID: b"\x01"})
    both = [*named, *(f"other-{word}" for word in named)]
    wrap, unwrap = log.uses()
    assert list(wrap) == list(unwrap) == ["use", "token", *both, "mechanism", "answer", *TAIL]
    assert (wrap["label"], wrap["other-label"]) == ("aes", "hmac")
    assert (unwrap["label"], unwrap["other-label"], unwrap["other-id"]) == ("aes", "new", "01")


HOSTILE = [
    b'x" answer=CKR_OK use="sign',
    b'x\nuse=sign token="other" answer=CKR_OK',
    b"\0\r\n\x1b[2J\x85\xe2\x80\xa8\xe2\x80\xae",
    b"\xff\xfe caf\xe9",
    b"",
]


@pytest.mark.parametrize("label", HOSTILE)
def test_a_hostile_label(token, session, log, label):
    log.uses()
    key = token.create(session, {**SECRET, CKA.VALUE: VALUE, CKA.LABEL: label, CKA.SIGN: TRUE, CKA.ID: b"\n"})
    token.sign(session, key, CKM.SHA256_HMAC, DATA)
    for use in (uses := log.uses()):
        assert use["label"].encode(errors="surrogateescape") == label
        assert use["id"] == "0a"
    assert [use["use"] for use in uses] == ["create", "sign"]


def test_names_without_end(token, log):
    slot = token.slots()[0]
    token.C_CloseAllSessions(slot)
    token.init_token(slot, SO_PIN, "\n" * 31 + "x")
    session = token.open(slot)
    long = {CKA.LABEL: b"\n" * 9999, CKA.ID: bytes(9999)}
    by = token.create(session, {**AES, **long, CKA.TOKEN: FALSE, CKA.PRIVATE: FALSE, CKA.VALUE: VALUE, CKA.WRAP: TRUE})
    usable = {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE, CKA.PRIVATE: FALSE}
    key = token.create(session, {**SECRET, **long, **usable, CKA.VALUE: VALUE})
    log.uses()
    token.wrap(session, by, key, CKM.AES_KEY_WRAP)
    (use,) = log.uses()
    assert list(use)[-4:] == ["answer", *TAIL]
    for word in ("label", "id", "other-label", "other-id"):
        assert use[word].endswith("…")
    assert len(log.text.splitlines()[-1]) < 1000
