"""The rules of calls that give data back, as encryption and decryption keep them."""

import os
import threading

import pytest
from ciphers import IV, aes, fails, pad, room, software
from cryptography.hazmat.primitives.ciphers import modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from parameters import ccm, ctr, gcm

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR
from rig.deadline import exit_code, fork, join


def test_a_buffer_that_is_just_large_enough(token, session):
    """The length that is asked for may be an upper bound; the data may be shorter."""
    key = aes(token, session)
    for mechanism, parameter in ((CKM.AES_CBC_PAD, IV), (CKM.AES_KEY_WRAP_PAD, b"")):
        encrypted = token.crypt("Encrypt", session, key, mechanism, bytes(33), parameter)
        token.C_DecryptInit(session, token.mechanism(mechanism, parameter), key)
        for size in (0, 32):
            out, length = room(token, size)
            fails(CKR.BUFFER_TOO_SMALL, token.C_Decrypt, session, encrypted, len(encrypted), out, length)
            assert length[0] == 33
        out, length = room(token, 33)
        token.C_Decrypt(session, encrypted, len(encrypted), out, length)
        assert bytes(33) == bytes(token.ffi.buffer(out, length[0]))


def test_a_result_is_not_made_twice(token, session):
    """What ended a cipher stays until it is fetched; other data in one part are an operation of their own."""
    key, value = aes(token, session), bytes(range(16))
    parameter = gcm(bytes(12))
    token.C_EncryptInit(session, token.mechanism(CKM.AES_GCM, parameter), key)
    fails(CKR.BUFFER_TOO_SMALL, token.C_Encrypt, session, b"data", 4, *room(token, 19))
    fails(CKR.BUFFER_TOO_SMALL, token.C_Encrypt, session, b"others", 6, *room(token, 19))
    other = token.bytes_of(lambda *out: token.C_Encrypt(session, b"others", 6, *out))
    assert AESGCM(value).encrypt(bytes(12), b"others", None) == other
    token.C_EncryptInit(session, token.mechanism(CKM.AES_GCM, parameter), key)
    part = token.bytes_of(lambda *out: token.C_EncryptUpdate(session, b"data", 4, *out))
    fails(CKR.BUFFER_TOO_SMALL, token.C_EncryptFinal, session, *room(token, 15))
    tag = token.bytes_of(lambda *out: token.C_EncryptFinal(session, *out))
    assert AESGCM(value).encrypt(bytes(12), b"data", None) == part + tag


@pytest.mark.parametrize("begun", ["C_Encrypt", "C_EncryptFinal"])
def test_what_comes_after_a_result_that_was_not_fetched(token, session, begun):
    key = aes(token, session)
    calls = {
        "C_EncryptUpdate": lambda *out: token.C_EncryptUpdate(session, b"data", 4, *out),
        "C_Encrypt": lambda *out: token.C_Encrypt(session, b"data", 4, *out),
        "C_EncryptFinal": lambda *out: token.C_EncryptFinal(session, *out),
    }
    for name, call in calls.items():
        if name == begun:
            continue
        token.C_EncryptInit(session, token.mechanism(CKM.AES_CBC_PAD, IV), key)
        fails(CKR.BUFFER_TOO_SMALL, calls[begun], *room(token, 1))
        fails(CKR.OPERATION_NOT_INITIALIZED, call, *room(token, 99))
        fails(CKR.OPERATION_NOT_INITIALIZED, calls[begun], *room(token, 99))


def test_an_update_without_room_consumes_nothing(token, session):
    key, data = aes(token, session), bytes(100)
    expected = software(bytes(range(16)), modes.CBC(IV), pad(data * 2))
    token.C_EncryptInit(session, token.mechanism(CKM.AES_CBC_PAD, IV), key)
    given = b""
    for _ in range(2):
        out, length = room(token, 95)
        fails(CKR.BUFFER_TOO_SMALL, token.C_EncryptUpdate, session, data, 100, out, length)
        given += token.bytes_of(lambda *out: token.C_EncryptUpdate(session, data, 100, *out))
    given += token.bytes_of(lambda *out: token.C_EncryptFinal(session, *out))
    assert expected == given


def test_the_last_block_waits_for_the_end(token, session):
    """As python-pkcs11's suite expects it."""
    key = aes(token, session)
    encrypted = token.crypt("Encrypt", session, key, CKM.AES_CBC_PAD, b"8 bytes.", IV)
    assert token.crypt_parts("Decrypt", session, key, CKM.AES_CBC_PAD, [encrypted], IV) == [b"", b"8 bytes."]


KEPT = {  # what keeps data until there are more, or until the end
    "GCM": (CKM.AES_GCM, gcm(bytes(12))),
    "CCM": (CKM.AES_CCM, ccm(1 << 10, bytes(12))),
    "KEY_WRAP_PAD": (CKM.AES_KEY_WRAP_PAD, b""),
    "CBC_PAD": (CKM.AES_CBC_PAD, IV),
    "CBC": (CKM.AES_CBC, IV),
    "CTR": (CKM.AES_CTR, ctr(128, IV)),
}
AUTHENTIC = {"GCM": (CKM.AES_GCM, gcm(bytes(12))), "CCM": (CKM.AES_CCM, ccm(0, bytes(12)))}


@pytest.mark.parametrize("way", ["Encrypt", "Decrypt"])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 40])
@pytest.mark.parametrize(("mechanism", "parameter"), KEPT.values(), ids=KEPT)
def test_a_length_is_enough_and_is_not_none(token, session, mechanism, parameter, length, way):
    """A host that asks for 0 bytes may get NULL from its system, whose call would ask for the length again."""
    key = aes(token, session)
    getattr(token, f"C_{way}Init")(session, token.mechanism(mechanism, parameter), key)
    update, asked = getattr(token, f"C_{way}Update"), token.ulong()
    for _ in range(3):
        update(session, bytes(length), length, token.ffi.NULL, asked)
        out, given = room(token, asked[0])
        update(session, bytes(length), length, out, given)
        assert 0 < asked[0] <= length + 16
        assert given[0] <= asked[0]


@pytest.mark.parametrize("way", ["Encrypt", "Decrypt"])
@pytest.mark.parametrize("final", [False, True])
def test_nothing_to_come(token, session, way, final):
    """What gives no bytes is asked for with a buffer of one, so that the operation ends."""
    key, asked = aes(token, session), token.ulong()
    getattr(token, f"C_{way}Init")(session, token.mechanism(CKM.AES_CTR, ctr(128, IV)), key)

    def end(*out):
        if final:
            getattr(token, f"C_{way}Final")(session, *out)
        else:
            getattr(token, f"C_{way}")(session, token.ffi.NULL, 0, *out)

    end(token.ffi.NULL, asked)
    assert asked[0] == 1
    out, length = room(token, 1)
    end(out, length)
    assert length[0] == 0
    fails(CKR.OPERATION_NOT_INITIALIZED, end, *room(token, 1))


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize(("mechanism", "parameter"), AUTHENTIC.values(), ids=AUTHENTIC)
@pytest.mark.parametrize("final", [False, True])
def test_an_empty_message_that_is_not_authentic(token, session, mechanism, parameter, stays, final):
    """Who asks how long it is hears of one byte, so that the call with a buffer of that length is made, and fails."""
    key = aes(token, session, with_={CKA.TOKEN: TRUE, CKA.PRIVATE: TRUE} if stays else {})
    token.C_DecryptInit(session, token.mechanism(mechanism, parameter), key)
    if final:
        token.C_DecryptUpdate(session, bytes(16), 16, *room(token, 16))

    def decrypt(*out):
        if final:
            token.C_DecryptFinal(session, *out)
        else:
            token.C_Decrypt(session, bytes(16), 16, *out)

    asked = token.ulong()
    decrypt(token.ffi.NULL, asked)
    assert asked[0] == 1
    fails(CKR.ENCRYPTED_DATA_INVALID, decrypt, *room(token, 1))


def test_a_second_init_and_a_cancelled_one(token, session):
    key, mechanism = aes(token, session), token.mechanism(CKM.AES_CBC_PAD, IV)
    for way in ("Encrypt", "Decrypt"):
        init, final = getattr(token, f"C_{way}Init"), getattr(token, f"C_{way}Final")
        init(session, mechanism, key)
        fails(CKR.OPERATION_ACTIVE, init, session, mechanism, key)
        init(session, token.ffi.NULL, 0)
        fails(CKR.OPERATION_NOT_INITIALIZED, getattr(token, f"C_{way}"), session, b"", 0, *room(token, 16))
        fails(CKR.ARGUMENTS_BAD, init, session, token.ffi.NULL, key)
        init(session, mechanism, key)
        final(session, token.ffi.NULL, token.ulong())
        getattr(token.raw, f"C_{way}Final")(session, *room(token, 16))  # ends it, whatever it answers
        init(session, mechanism, key)
        init(session, token.ffi.NULL, 0)


def test_one_part_after_several(token, session):
    key = aes(token, session)
    token.C_EncryptInit(session, token.mechanism(CKM.AES_CTR, ctr(128, IV)), key)
    token.bytes_of(lambda *out: token.C_EncryptUpdate(session, b"part", 4, *out))
    fails(CKR.OPERATION_NOT_INITIALIZED, token.C_Encrypt, session, b"", 0, *room(token, 9))
    fails(CKR.OPERATION_NOT_INITIALIZED, token.C_EncryptFinal, session, *room(token, 9))


def test_arguments_that_can_not_be(token, session):
    key, null = aes(token, session), token.ffi.NULL
    for call in (
        lambda: token.C_Encrypt(session, null, 4, *room(token, 99)),
        lambda: token.C_Encrypt(session, b"data", 1 << 63, null, token.ulong()),
        lambda: token.C_Encrypt(session, b"data", (1 << 64) - 1, *room(token, 99)),
        lambda: token.C_Encrypt(session, b"data", 4, room(token, 99)[0], null),
        lambda: token.C_EncryptUpdate(session, b"data", (1 << 64) - 1, null, token.ulong()),
        lambda: token.C_EncryptFinal(session, null, null),
    ):
        token.C_EncryptInit(session, token.mechanism(CKM.AES_CTR, ctr(128, IV)), key)
        fails(CKR.ARGUMENTS_BAD, call)
        fails(CKR.OPERATION_NOT_INITIALIZED, token.C_EncryptFinal, session, *room(token, 9))


def test_keys_that_are_not_for_it(token, session):
    mechanism = token.mechanism(CKM.AES_ECB)
    for usage, way in ((CKA.ENCRYPT, "Encrypt"), (CKA.DECRYPT, "Decrypt")):
        key = aes(token, session, with_={usage: FALSE})
        fails(CKR.KEY_FUNCTION_NOT_PERMITTED, getattr(token, f"C_{way}Init"), session, mechanism, key)
    generic = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET), CKA.VALUE: bytes(16)}
    fails(CKR.KEY_TYPE_INCONSISTENT, token.C_EncryptInit, session, mechanism, token.create(session, generic))
    fails(CKR.KEY_HANDLE_INVALID, token.C_EncryptInit, session, mechanism, 99999)
    key = aes(token, session, with_={CKA.ALLOWED_MECHANISMS: ulong(CKM.AES_CBC)})
    fails(CKR.MECHANISM_INVALID, token.C_EncryptInit, session, mechanism, key)
    fails(CKR.MECHANISM_INVALID, token.C_EncryptInit, session, token.mechanism(CKM.SHA256), key)


def test_data_in_place(token, session):
    key, data = aes(token, session), token.ffi.new("CK_BYTE[48]", bytes(range(48)))
    length = token.ulong()
    length[0] = 48
    token.C_EncryptInit(session, token.mechanism(CKM.AES_CBC, IV), key)
    token.C_Encrypt(session, data, 48, data, length)
    expected = software(bytes(range(16)), modes.CBC(IV), bytes(range(48)))
    assert expected == bytes(token.ffi.buffer(data, 48))


@pytest.mark.usefixtures("session")
def test_four_mebibytes_in_one_call_by_several_threads(token):
    data, results = os.urandom(4 << 20), {}

    def work(number):
        own = token.open(token.slots()[0])
        key = aes(token, own)
        for mechanism, parameter in ((CKM.AES_CBC_PAD, IV), (CKM.AES_GCM, gcm(bytes(12)))):
            encrypted = token.crypt("Encrypt", own, key, mechanism, data, parameter)
            plain = token.crypt("Decrypt", own, key, mechanism, encrypted, parameter)
            results[number, mechanism] = len(encrypted), plain == data

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert set(results.values()) == {(len(data) + 16, True)}
    assert len(results) == 8


def in_child(token):
    """Work in a forked child, as a host of its own."""
    token.initialize()
    session = token.open(token.slots()[0])
    key = aes(token, session, with_={CKA.PRIVATE: FALSE})
    encrypted = token.crypt("Encrypt", session, key, CKM.AES_GCM, bytes(1 << 20), gcm(bytes(12)))
    return 0 if AESGCM(bytes(range(16))).encrypt(bytes(12), bytes(1 << 20), None) == encrypted else 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_while_others_encrypt(token, session):
    """OpenSSL works without the GIL then; nothing that it holds may be missed in the child."""
    key, ended = aes(token, session), threading.Event()

    def work():
        own = token.open(token.slots()[0])
        while not ended.is_set():
            token.crypt("Encrypt", own, key, CKM.AES_GCM, bytes(1 << 20), gcm(bytes(12)))
            token.crypt("Encrypt", own, key, CKM.AES_CBC, bytes(64), IV)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert exit_code(fork(lambda: in_child(token))) == 0
    finally:
        ended.set()
        join(*threads)
