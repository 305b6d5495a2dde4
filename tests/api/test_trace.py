"""A line for each call, with 'log-level = debug': what was called and what came of it, and no PIN and no data."""

import os
import re
import sys
from pathlib import Path

import pytest
from cryptoki import SO, USER, Rv
from keys import ec_pair, secret_key

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR

PIN, OTHER_PIN, SO_PIN = b"123456", b"7-other-pin-7", b"so-secret"
DATA = b"what is signed, encrypted or kept"
VALUE = b"the value of a secret key, 32 b."
LINE = re.compile(r"\S+ p11tpm\[\d+\] debug: (C_\w+)\((.*)\): (CKR_\w+)(.*), (\d+\.\d{3}) ms")


@pytest.fixture
def settings(settings, tmp_path):
    Path(os.environ["P11TPM_CONF"]).write_text(f"log = {tmp_path / 'log'}\nlog-level = debug\n")
    return settings


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def calls(log):
    """Return the functions that were called since the last look, with arguments, answer and results."""
    found = [match.groups() for line in log.read_text().splitlines() if (match := LINE.fullmatch(line))]
    log.write_text("")
    return [(function, f"{arguments}: {answer}{results}") for function, arguments, answer, results, _ in found]


def test_each_call_has_a_line(token, session, log):
    calls(log)
    public, private = ec_pair(token, session)
    made = f"CKR_OK, public_handle={public}, private_handle={private}"
    assert calls(log) == [
        (
            "C_GenerateKeyPair",
            f"session={session}, mechanism=CKM_EC_KEY_PAIR_GEN, public_count=4, private_count=3: {made}",
        )
    ]
    token.sign(session, private, CKM.ECDSA, bytes(32))
    assert calls(log) == [
        ("C_SignInit", f"session={session}, mechanism=CKM_ECDSA, key={private}: CKR_OK"),
        ("C_Sign", f"session={session}, data_length=32: CKR_OK, out_length=64"),
        ("C_Sign", f"session={session}, data_length=32: CKR_OK, out_length=64"),
    ]
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), private)
    length = token.ulong()
    length[0] = 1
    assert token.raw.C_Sign(session, bytes(32), 32, token.ffi.new("CK_BYTE[1]"), length) == CKR.BUFFER_TOO_SMALL
    with pytest.raises(Rv):
        token.sign(session + 100, private, CKM.ECDSA, bytes(32))
    _, small, failed = calls(log)
    assert small == ("C_Sign", f"session={session}, data_length=32: CKR_BUFFER_TOO_SMALL, out_length=64")
    assert failed == (
        "C_SignInit",
        f"session={session + 100}, mechanism=CKM_ECDSA, key={private}: CKR_SESSION_HANDLE_INVALID",
    )
    token.find(session, {CKA.CLASS: ulong(CKO.DATA)})
    assert [function for function, _ in calls(log)] == ["C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal"]


def test_no_pin_and_no_data_are_in_it(token, session, log):
    token.set_pin(session, PIN, OTHER_PIN)
    token.logout(session)
    with pytest.raises(Rv):
        token.login(session, USER, PIN)
    token.login(session, USER, OTHER_PIN)
    template = {CKA.CLASS: ulong(CKO.DATA), CKA.VALUE: DATA, CKA.TOKEN: TRUE, CKA.PRIVATE: TRUE, CKA.LABEL: DATA}
    data = token.create(session, template)
    assert token.get(session, data, CKA.VALUE) == DATA
    key = secret_key(token, session, VALUE, CKK.AES, SENSITIVE=FALSE)
    encrypted = token.crypt("Encrypt", session, key, CKM.AES_CBC_PAD, DATA, VALUE[:16])
    code = token.sign(session, secret_key(token, session, VALUE), CKM.SHA256_HMAC, DATA)
    token.logout(session)
    token.login(session, SO, SO_PIN)
    token.init_pin(session, PIN)
    text = log.read_text()
    seen = ("C_SetPIN", "C_Login", "C_InitPIN", "C_CreateObject", "C_GetAttributeValue", "C_Encrypt", "C_Sign")
    for function in seen:
        assert f"debug: {function}(" in text
    for secret in (PIN, OTHER_PIN, SO_PIN, DATA, VALUE, VALUE[:16], encrypted, code):
        assert secret.decode(errors="replace") not in text
        assert secret.hex() not in text.lower()
    for function, told in calls(log):
        if function in {"C_SetPIN", "C_Login", "C_InitPIN"}:
            assert "length" not in told


def test_other_runs_have_the_functions_as_they_are(token, log):
    attach = sys.modules["p11tpm.entry.attach"]
    assert vars(attach)["_watched"] == set(attach.functions())
    token.finalize()
    Path(os.environ["P11TPM_CONF"]).write_text(f"log = {log}\n")
    log.write_text("")
    token.initialize()
    token.slots()
    assert log.read_text() == ""
    assert vars(attach)["_watched"] == set()


def test_uses_and_calls_are_logged_together(token, log):
    token.finalize()
    Path(os.environ["P11TPM_CONF"]).write_text(f"log = {log}\nlog-level = debug\nlog-uses = yes\n")
    token.initialize()
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    assert f"debug: C_Login(session={session}, user=1): CKR_OK" in log.read_text()
    assert "notice: use=login" in log.read_text()
