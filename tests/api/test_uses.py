"""One line in the log for each use of a key, with 'log-uses': what the auditor of an authority reads."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptoki import RO, SO, USER, Rv
from keys import ec_pair, rsa_pair
from parameters import ecdh
from test_gone import Other

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKF, CKK, CKM, CKO, CKR, CKU
from rig.deadline import exit_code, fork, join

PIN, SO_PIN = b"123456", b"so-secret"
DATA = b"what is signed or encrypted"
VALUE = b"the value of a secret key, 32 b."
SECRET = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET)}
AES = {**SECRET, CKA.KEY_TYPE: ulong(CKK.AES)}
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
TAIL = ["program", "uid", "euid"]


class Log:
    """The log of this test: what it says since it was read last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    @property
    def text(self) -> str:
        return self.path.read_text() if self.path.exists() else ""

    def uses(self) -> list[dict[str, str]]:
        lines = self.text.splitlines()
        new, self._read = lines[self._read :], len(lines)
        return [parsed(line) for line in new]

    def said(self) -> list[str]:
        """What was done, to which key, with which answer."""
        return [" ".join((use["use"], use.get("label", ""), use["answer"])).replace("  ", " ") for use in self.uses()]


def parsed(line: str) -> dict[str, str]:
    """The fields of a line in their order, as a program would read them."""
    head = re.match(rf"{STAMP} p11tpm\[{os.getpid()}\] notice: (?=use=)", line)
    assert head, line
    fields = re.findall(r'([a-z-]+)=("[^"]*"|[^ "]*)(?: |$)', line[head.end() :])
    assert " ".join("=".join(field) for field in fields) == line[head.end() :]
    return {word: json.loads(value) if value.startswith('"') else value for word, value in fields}


@pytest.fixture
def settings(settings, tmp_path):
    (tmp_path / "p11tpm.conf").write_text(f"log = {tmp_path}/log\nlog-uses = yes\n")
    return settings


@pytest.fixture
def log(tmp_path, session) -> Log:  # noqa: ARG001 - whose login comes first
    """What is logged after the login."""
    log = Log(tmp_path / "log")
    log.uses()
    return log


@pytest.fixture
def keys(token, session, log) -> dict[str, int]:
    made = {}
    more = {"private": {CKA.DERIVE: TRUE}}
    made["public"], made["private"] = ec_pair(token, session, label=b"pair", id_=b"\x0a\xff", **more)
    usable = {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE}
    made["hmac"] = token.create(session, {**SECRET, **usable, CKA.VALUE: VALUE, CKA.LABEL: b"hmac", CKA.SIGN: TRUE})
    made["aes"] = token.create(session, {**AES, CKA.VALUE: VALUE, CKA.LABEL: b"aes", CKA.WRAP: TRUE, CKA.UNWRAP: TRUE})
    log.uses()
    return made


@pytest.fixture
def rsa(token, session, log) -> tuple[int, int]:
    pair = rsa_pair(token, session)
    log.uses()
    return pair


def refused(rv, call, *args):
    with pytest.raises(Rv) as error:
        call(*args)
    assert error.value == rv


def test_a_token_that_is_gone_is_said_to_be_gone(token, session, keys):
    """...as without a log of uses, which looks at the key before the function does."""
    Other().initialize_again()
    refused(CKR.DEVICE_REMOVED, token.sign, session, keys["private"], CKM.ECDSA_SHA256, DATA)


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


# -- operations: one line when they end


def test_signatures(token, session, keys, rsa, log):
    private = keys["private"]
    token.sign(session, private, CKM.ECDSA_SHA256, DATA)
    token.sign_parts(session, private, CKM.ECDSA_SHA256, [DATA, DATA])
    token.C_SignRecoverInit(session, token.mechanism(CKM.RSA_PKCS), rsa[1])
    token.bytes_of(lambda *out: token.C_SignRecover(session, DATA, len(DATA), *out))
    code = token.sign(session, keys["hmac"], CKM.SHA256_HMAC, DATA)
    assert log.said() == ["sign pair CKR_OK", "sign pair CKR_OK", "sign rsa CKR_OK", "sign hmac CKR_OK"]
    token.verify(session, keys["hmac"], CKM.SHA256_HMAC, DATA, code)
    refused(CKR.SIGNATURE_INVALID, token.verify, session, keys["hmac"], CKM.SHA256_HMAC, DATA, bytes(32))
    refused(CKR.SIGNATURE_LEN_RANGE, token.verify_parts, session, keys["hmac"], CKM.SHA256_HMAC, [DATA], b"")
    said = ["verify hmac CKR_OK", "verify hmac CKR_SIGNATURE_INVALID", "verify hmac CKR_SIGNATURE_LEN_RANGE"]
    assert log.said() == said


def test_what_anyone_can_do_with_a_public_key_is_not_logged(token, session, keys, rsa, log):
    signature = token.sign(session, keys["private"], CKM.ECDSA_SHA256, DATA)
    log.uses()
    token.verify(session, keys["public"], CKM.ECDSA_SHA256, DATA, signature)
    refused(CKR.SIGNATURE_INVALID, token.verify, session, keys["public"], CKM.ECDSA_SHA256, b"", signature)
    refused(CKR.KEY_TYPE_INCONSISTENT, token.sign, session, keys["public"], CKM.ECDSA_SHA256, DATA)
    token.crypt("Encrypt", session, rsa[0], CKM.RSA_PKCS, DATA)
    token.digest(session, CKM.SHA256, DATA)
    token.find(session, {})
    assert log.said() == []


def test_encryption_and_decryption(token, session, keys, rsa, log):
    for mechanism, by, key in ((CKM.RSA_PKCS, *rsa), (CKM.AES_ECB, keys["aes"], keys["aes"])):
        data = DATA[:16]
        secret = token.crypt("Encrypt", session, by, mechanism, data)
        assert token.crypt("Decrypt", session, key, mechanism, secret) == data
    assert log.said() == ["decrypt rsa CKR_OK", "encrypt aes CKR_OK", "decrypt aes CKR_OK"]
    parts = token.crypt_parts("Encrypt", session, keys["aes"], CKM.AES_ECB, [bytes(16), bytes(16)])
    token.crypt_parts("Decrypt", session, keys["aes"], CKM.AES_ECB, parts[:2])
    assert log.said() == ["encrypt aes CKR_OK", "decrypt aes CKR_OK"]
    refused(CKR.ENCRYPTED_DATA_LEN_RANGE, token.crypt, "Decrypt", session, keys["aes"], CKM.AES_ECB, b"short")
    assert log.said() == ["decrypt aes CKR_ENCRYPTED_DATA_LEN_RANGE"]


def test_two_operations_in_one_call(token, session, keys, log):
    token.C_EncryptInit(session, token.mechanism(CKM.AES_ECB), keys["aes"])
    token.C_SignInit(session, token.mechanism(CKM.SHA256_HMAC), keys["hmac"])
    token.bytes_of(lambda *out: token.C_SignEncryptUpdate(session, bytes(16), 16, *out))
    assert log.said() == []
    token.bytes_of(lambda *out: token.C_SignFinal(session, *out))
    out, length = token.ffi.new("CK_BYTE[]", 64), token.ulong()
    length[0] = 64
    token.C_EncryptFinal(session, out, length)
    assert log.said() == ["sign hmac CKR_OK", "encrypt aes CKR_OK"]


def test_an_operation_that_does_not_begin(token, session, keys, log):
    private = keys["private"]
    refused(CKR.MECHANISM_INVALID, token.sign, session, private, CKM.AES_ECB, DATA)
    refused(
        CKR.KEY_FUNCTION_NOT_PERMITTED, token.crypt, "Encrypt", session, _of_no_use(token, session), CKM.AES_ECB, b""
    )
    refused(CKR.KEY_HANDLE_INVALID, token.sign, session, 99999, CKM.ECDSA, DATA)
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), private)
    refused(CKR.OPERATION_ACTIVE, token.C_SignInit, session, token.mechanism(CKM.ECDSA), private)
    said = log.said()
    assert said[0] == "sign pair CKR_MECHANISM_INVALID"
    assert said[2:] == [
        "encrypt nothing CKR_KEY_FUNCTION_NOT_PERMITTED",
        "sign CKR_KEY_HANDLE_INVALID",
        "sign pair CKR_OPERATION_ACTIVE",
    ]
    token.bytes_of(lambda *out: token.C_Sign(session, bytes(32), 32, *out))
    assert log.said() == ["sign pair CKR_OK"]


def _of_no_use(token, session):
    return token.create(session, {**AES, CKA.VALUE: VALUE, CKA.LABEL: b"nothing", CKA.ENCRYPT: FALSE})


def test_a_question_for_the_length_is_no_use(token, session, keys, log):
    null, length, short = token.ffi.NULL, token.ulong(), token.ffi.new("CK_BYTE[]", 1)
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), keys["private"])
    token.C_Sign(session, bytes(32), 32, null, length)
    length[0] = 1
    refused(CKR.BUFFER_TOO_SMALL, token.C_Sign, session, bytes(32), 32, short, length)
    given = token.mechanism(CKM.AES_KEY_WRAP)
    token.C_WrapKey(session, given, keys["aes"], keys["hmac"], null, length)
    length[0] = 1
    refused(CKR.BUFFER_TOO_SMALL, token.C_WrapKey, session, given, keys["aes"], keys["hmac"], short, length)
    assert log.said() == []


@pytest.mark.parametrize("end", ["cancel", "NULL", "close", "close all", "logout", "finalize"])
def test_an_operation_that_is_given_up(token, session, keys, log, end):
    """Parts may have been decrypted by then."""
    token.C_DecryptInit(session, token.mechanism(CKM.AES_ECB), keys["aes"])
    token.bytes_of(lambda *out: token.C_DecryptUpdate(session, bytes(32), 32, *out))
    other = token.open(token.slots()[0])
    token.C_SignInit(other, token.mechanism(CKM.ECDSA), keys["private"])
    assert log.said() == []
    {
        "cancel": lambda: token.C_SessionCancel(session, CKF.DECRYPT),
        "NULL": lambda: token.C_DecryptInit(session, token.ffi.NULL, 0),
        "close": lambda: token.close(session),
        "close all": lambda: token.C_CloseAllSessions(token.slots()[0]),
        "logout": lambda: token.logout(session),
        "finalize": token.finalize,
    }[end]()
    of_session = ["decrypt aes CKR_FUNCTION_CANCELED"]
    of_other = ["sign pair CKR_FUNCTION_CANCELED"]
    assert log.said() == of_session + (of_other if end in {"close all", "logout", "finalize"} else [])


def test_an_answer_of_the_tpm(token, session, keys, log, proxy):
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), keys["private"])
    proxy.change = lambda request, response: (
        bytes.fromhex("80010000000a00000101") if request[6:10] == bytes.fromhex("0000015d") else response
    )
    out, length = token.ffi.new("CK_BYTE[]", 64), token.ulong()
    length[0] = 64
    refused(CKR.DEVICE_ERROR, token.C_Sign, session, bytes(32), 32, out, length)
    (error, line) = log.text.splitlines()[-2:]
    proxy.change = None
    assert "error: C_Sign: CKR_DEVICE_ERROR" in line
    assert parsed(error)["answer"] == "CKR_DEVICE_ERROR"


# -- functions of one call


def test_keys_are_made_changed_and_destroyed(token, session, keys, log):
    made = token.ulong()
    wanted = {CKA.LABEL: b"new", CKA.TOKEN: TRUE, CKA.VALUE_LEN: ulong(32)}
    token.C_GenerateKey(session, token.mechanism(CKM.AES_KEY_GEN), *token.template(wanted), made)
    odd = token.template({**wanted, CKA.VALUE_LEN: ulong(5)})
    refused(CKR.KEY_SIZE_RANGE, token.C_GenerateKey, session, token.mechanism(CKM.AES_KEY_GEN), *odd, made)
    nameless = ({}, {CKA.LABEL: b"other"})
    refused(CKR.TEMPLATE_INCOMPLETE, token.generate_pair, session, CKM.EC_KEY_PAIR_GEN, *nameless)
    token.set(session, made[0], {CKA.LABEL: b"renamed"})
    refused(CKR.ATTRIBUTE_READ_ONLY, token.set, session, made[0], {CKA.VALUE_LEN: ulong(5)})
    copied = token.ulong()
    token.C_CopyObject(session, made[0], *token.template({CKA.LABEL: b"copy"}), copied)
    uses = log.uses()
    assert [(use["use"], use["label"], use.get("other-label"), use["answer"]) for use in uses] == [
        ("generate", "new", None, "CKR_OK"),
        ("generate", "new", None, "CKR_KEY_SIZE_RANGE"),
        ("generate", "other", None, "CKR_TEMPLATE_INCOMPLETE"),
        ("change", "new", None, "CKR_OK"),
        ("change", "renamed", None, "CKR_ATTRIBUTE_READ_ONLY"),
        ("copy", "renamed", "copy", "CKR_OK"),
    ]
    assert uses[2]["mechanism"] == "CKM_EC_KEY_PAIR_GEN"
    token.C_DestroyObject(session, copied[0])
    refused(CKR.OBJECT_HANDLE_INVALID, token.C_DestroyObject, session, copied[0])
    token.C_DestroyObject(session, keys["public"])
    reader = token.open(token.slots()[0], RO)
    refused(CKR.SESSION_READ_ONLY, token.C_DestroyObject, reader, made[0])
    uses = log.uses()
    assert [(use["use"], use.get("class"), use["label"], use["answer"]) for use in uses] == [
        ("destroy", "CKO_SECRET_KEY", "copy", "CKR_OK"),
        ("destroy", None, "", "CKR_OBJECT_HANDLE_INVALID"),
        ("destroy", "CKO_PUBLIC_KEY", "pair", "CKR_OK"),
        ("destroy", "CKO_SECRET_KEY", "renamed", "CKR_SESSION_READ_ONLY"),
    ]
    refused(CKR.KEY_SIZE_RANGE, token.create, session, {**AES, CKA.VALUE: b"short", CKA.LABEL: b"odd"})
    assert log.said() == ["create odd CKR_KEY_SIZE_RANGE"]


def test_what_is_no_key_is_not_logged(token, session, log):
    log.uses()
    data = token.create(session, {CKA.CLASS: ulong(CKO.DATA), CKA.VALUE: DATA, CKA.LABEL: b"data"})
    refused(CKR.ATTRIBUTE_TYPE_INVALID, token.create, session, {CKA.CLASS: ulong(CKO.DATA), CKA.SIGN: TRUE})
    token.set(session, data, {CKA.LABEL: b"other"})
    token.get(session, data, CKA.VALUE)
    token.C_DestroyObject(session, data)
    assert log.said() == []


def test_keys_of_keys(token, session, keys, log):
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    point = other.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    wanted = {**SECRET, CKA.LABEL: b"agreed"}
    token.derive(session, keys["private"], CKM.ECDH1_DERIVE, wanted, ecdh(point))
    refused(CKR.MECHANISM_PARAM_INVALID, token.derive, session, keys["private"], CKM.ECDH1_DERIVE, wanted, b"?")
    wrapped = token.wrap(session, keys["aes"], keys["hmac"], CKM.AES_KEY_WRAP)
    refused(CKR.KEY_UNEXTRACTABLE, token.wrap, session, keys["aes"], keys["private"], CKM.AES_KEY_WRAP_PAD)
    token.unwrap(session, keys["aes"], CKM.AES_KEY_WRAP, wrapped, wanted)
    refused(CKR.WRAPPED_KEY_INVALID, token.unwrap, session, keys["aes"], CKM.AES_KEY_WRAP, wrapped[::-1], wanted)
    token.C_DigestInit(session, token.mechanism(CKM.SHA256))
    token.C_DigestKey(session, keys["hmac"])
    refused(CKR.KEY_INDIGESTIBLE, token.C_DigestKey, session, keys["private"])
    uses = log.uses()
    assert [(use["use"], use["label"], use.get("other-label"), use["answer"]) for use in uses] == [
        ("derive", "pair", "agreed", "CKR_OK"),
        ("derive", "pair", "agreed", "CKR_MECHANISM_PARAM_INVALID"),
        ("wrap", "aes", "hmac", "CKR_OK"),
        ("wrap", "aes", "pair", "CKR_KEY_UNEXTRACTABLE"),
        ("unwrap", "aes", "agreed", "CKR_OK"),
        ("unwrap", "aes", "agreed", "CKR_WRAPPED_KEY_INVALID"),
        ("digest", "hmac", None, "CKR_OK"),
        ("digest", "pair", None, "CKR_KEY_INDIGESTIBLE"),
    ]


def test_a_key_that_is_read(token, session, keys, log):
    assert token.get(session, keys["hmac"], CKA.VALUE) == VALUE
    token.get(session, keys["hmac"], CKA.LABEL)
    refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, keys["aes"], CKA.VALUE)
    refused(CKR.ATTRIBUTE_SENSITIVE, token.get, session, keys["private"], CKA.VALUE)
    assert log.said() == ["read hmac CKR_OK"]
    array, _ = token.template([(CKA.VALUE, bytes(32)), (CKA.MODULUS, b"")])
    refused(CKR.ATTRIBUTE_TYPE_INVALID, token.C_GetAttributeValue, session, keys["hmac"], array, 2)
    assert token.raw.C_GetAttributeValue(session, keys["hmac"], token.ffi.NULL, 1) == CKR.ARGUMENTS_BAD
    assert log.said() == ["read hmac CKR_ATTRIBUTE_TYPE_INVALID"]


def test_no_secret_is_logged(token, session, keys, rsa, log):
    """Neither in the clear nor in hexadecimal: what the other tests do, once more."""
    test_signatures(token, session, keys, rsa, log)
    test_encryption_and_decryption(token, session, keys, rsa, log)
    test_keys_of_keys(token, session, keys, log)
    test_a_key_that_is_read(token, session, keys, log)
    for secret in (PIN, SO_PIN, DATA, VALUE, DATA[:16]):
        assert secret.decode() not in log.text.replace(f"p11tpm[{os.getpid()}]", "")
        assert secret.hex() not in log.text


@pytest.mark.usefixtures("token")
def test_every_function_is_watched_or_uses_no_key():
    uses = sys.modules["p11tpm.entry.uses"]
    built = sys.modules["p11tpm.entry.attach"]._functions  # noqa: SLF001 - it has what a host can call
    assert built.keys() - uses._ROWS.keys() == {  # noqa: SLF001
        *("C_Initialize", "C_GetInfo", "C_GetFunctionStatus", "C_CancelFunction"),
        *("C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo", "C_WaitForSlotEvent"),
        *("C_GetMechanismList", "C_GetMechanismInfo", "C_OpenSession", "C_GetSessionInfo"),
        *("C_GetOperationState", "C_SetOperationState", "C_SeedRandom", "C_GenerateRandom"),
        *("C_DigestInit", "C_Digest", "C_DigestUpdate", "C_DigestFinal"),
        *("C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_GetObjectSize"),
    }
    assert uses._ROWS.keys() <= built.keys()  # noqa: SLF001


# -- whose names anyone may choose


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


# -- what the log does to programs


def again(token, tmp_path, settings: str) -> int:
    """Begin another run with other settings and give a session of its user."""
    token.finalize()
    (tmp_path / "p11tpm.conf").write_text(settings)
    token.initialize()
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    return session


def test_off_and_on_again(token, session, tmp_path, log):
    _, private = ec_pair(token, session)
    for words, lines in (("", 0), ("log-uses = no\n", 0), ("log-uses = yes\n", 2), ("", 0)):
        log.uses()
        session = again(token, tmp_path, f"log = {tmp_path}/log\n{words}")
        (private,) = token.find(session, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)})
        token.sign(session, private, CKM.ECDSA, bytes(32))
        assert len(log.uses()) == lines


@pytest.mark.parametrize("place", ["missing/log", "fifo", "/dev/full"])
def test_a_log_that_cannot_be_written_stops_nothing(token, session, tmp_path, place):
    ec_pair(token, session)
    os.mkfifo(tmp_path / "fifo")
    session = again(token, tmp_path, f"log = {tmp_path / place}\nlog-uses = yes\n")
    (private,) = token.find(session, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)})
    token.sign(session, private, CKM.ECDSA, bytes(32))
    refused(CKR.KEY_HANDLE_INVALID, token.sign, session, 9999, CKM.ECDSA, bytes(32))


def test_uses_without_a_log_are_refused(token, tmp_path):
    token.finalize()
    (tmp_path / "p11tpm.conf").write_text("log = off\nlog-uses = yes\n")
    refused(CKR.GENERAL_ERROR, token.initialize)
    (tmp_path / "p11tpm.conf").write_text("log = off\n")
    token.initialize()


def test_a_session_of_two_threads(token, session, keys, log):
    """Whoever ends an operation, there is one line for it, with the answer to the call that ended it."""
    begun, ended = [], []
    given = token.mechanism(CKM.SHA256_HMAC)

    def sign():
        out, length = token.ffi.new("CK_BYTE[]", 64), token.ulong()
        for _ in range(100):
            begun.append(token.raw.C_SignInit(session, given, keys["hmac"]))
            length[0] = 64
            ended.append(token.raw.C_Sign(session, DATA, len(DATA), out, length))
            token.raw.C_SessionCancel(session, CKF.SIGN)

    threads = [threading.Thread(target=sign, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    join(*threads)
    token.C_SessionCancel(session, CKF.SIGN)
    said = log.said()
    lines = {
        answer: said.count(f"sign hmac CKR_{answer}") for answer in ("OK", "FUNCTION_CANCELED", "OPERATION_ACTIVE")
    }
    assert sum(lines.values()) == len(said)
    assert lines["OK"] == ended.count(CKR.OK) > 0
    assert lines["OK"] + lines["FUNCTION_CANCELED"] == begun.count(CKR.OK)
    assert lines["OPERATION_ACTIVE"] == begun.count(CKR.OPERATION_ACTIVE)


def test_a_forked_child_logs_its_own_uses(token, session, keys, log):
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), keys["private"])

    def work() -> None:
        token.initialize()
        token.login(token.open(token.slots()[0]), USER, PIN)
        token.finalize()

    child = fork(work)
    assert exit_code(child) == 0
    token.bytes_of(lambda *out: token.C_Sign(session, bytes(32), 32, *out))
    theirs, ours = (re.findall(r"p11tpm\[(\d+)\] notice: (use=\w+)", line)[0] for line in log.text.splitlines()[-2:])
    assert (theirs, ours) == ((str(child), "use=login"), (str(os.getpid()), "use=sign"))
