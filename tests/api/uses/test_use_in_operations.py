"""Operations in the log of uses: one line when they end, whoever ends them."""

from __future__ import annotations

import threading

import pytest
from use_log import AES, DATA, VALUE, parsed, refused

from p11tpm.attribute import FALSE
from p11tpm.ck import CKA, CKF, CKM, CKR
from rig.deadline import join
from rig.proxy import Command


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


def test_an_operation_is_given_up_beside_the_call_that_uses_it(token, session, keys, log, proxy):
    """C_SignInit with NULL does not wait for the TPM, and there is one line for the operation."""
    begun, given_up = threading.Event(), threading.Event()

    def hold(request: bytes, response: bytes) -> bytes:
        if Command(request, response).name == "Sign":
            begun.set()
            given_up.wait(30)
        return response

    proxy.change = hold
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), keys["private"])
    out, length, answers = token.ffi.new("CK_BYTE[]", 64), token.ulong(), []
    length[0] = 64

    def sign() -> None:
        answers.append(token.raw.C_Sign(session, bytes(32), 32, out, length))

    thread = threading.Thread(target=sign, daemon=True)
    thread.start()
    assert begun.wait(30)
    token.C_SignInit(session, token.ffi.NULL, 0)
    assert not answers
    given_up.set()
    join(thread)
    assert (answers, log.said()) == ([CKR.OK], ["sign pair CKR_OK"])
