"""Secret keys in the TPM: which they are, that every mechanism does with them what it does in software, and no more.

The values are known here, so all results are compared with another implementation (cryptography on OpenSSL).
"""

import hmac
import os
import sqlite3
import threading
from pathlib import Path

import pytest
from ciphers import IV, aes, fails, in_parts, pad, software
from cryptography.hazmat.primitives import cmac, keywrap
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptoki import USER, Rv
from keys import secret_key
from parameters import ccm, ctr, gcm, ulongs

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKF, CKK, CKM, CKO, CKR, name
from p11tpm.mechanism import MECHANISMS
from p11tpm.store import Store
from rig.deadline import join
from rig.process import wait_until
from rig.proxy import NAMES

try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB  # from version 46 on
except ImportError:
    from cryptography.hazmat.primitives.ciphers.modes import CFB

PIN = b"123456"
KEPT = {CKA.TOKEN: TRUE}
OF_HASH = {
    "sha1": (CKK.SHA_1_HMAC, CKM.SHA_1_HMAC, CKM.SHA_1_HMAC_GENERAL),
    "sha256": (CKK.SHA256_HMAC, CKM.SHA256_HMAC, CKM.SHA256_HMAC_GENERAL),
    "sha384": (CKK.SHA384_HMAC, CKM.SHA384_HMAC, CKM.SHA384_HMAC_GENERAL),
    "sha512": (CKK.SHA512_HMAC, CKM.SHA512_HMAC, CKM.SHA512_HMAC_GENERAL),
}
ALLOWED = ulongs(*(mechanism for _, *both in OF_HASH.values() for mechanism in both))


def store():
    return Store(os.environ["P11TPM_STORE"])


def places():
    """Print of each secret key in the store, oldest first, whether it is in the TPM; it is in one place only."""
    (row,) = store().tokens()
    records = [store().record(id_) for id_ in sorted(store().find(row.id, {CKA.CLASS: ulong(CKO.SECRET_KEY)}, {}))]
    return [record.tpm_private is not None for record in records]


def generate(run, session, mechanism, length, **more):
    made = run.ulong()
    template = {**KEPT, CKA.VALUE_LEN: ulong(length), **{getattr(CKA, word): value for word, value in more.items()}}
    run.C_GenerateKey(session, run.mechanism(mechanism), *run.template(template), made)
    return made[0]


def hmac_key(run, session, value, key_type, **more):
    return secret_key(run, session, value, key_type, TOKEN=TRUE, PRIVATE=TRUE, **more)


# -- AES: every mode, against OpenSSL


def mac(value, data):
    making = cmac.CMAC(algorithms.AES(value))
    making.update(data)
    return making.finalize()


# mechanism, its parameter, what OpenSSL makes of a key and data, and which lengths of data it takes
BLOCKS, ANY = (16, 32, 1024, 1040, 4096), (0, 1, 15, 16, 17, 31, 1023, 1024, 1025, 3001)
CARRY = b"\xff" * 13 + b"\0\xff\xfd"  # a counter whose third byte from the end counts in the fourth block
CIPHERS = {
    "ECB": (CKM.AES_ECB, b"", lambda key, data: software(key, modes.ECB(), data), BLOCKS),
    "CBC": (CKM.AES_CBC, IV, lambda key, data: software(key, modes.CBC(IV), data), BLOCKS),
    "CBC_PAD": (CKM.AES_CBC_PAD, IV, lambda key, data: software(key, modes.CBC(IV), pad(data)), ANY),
    "CFB128": (CKM.AES_CFB128, IV, lambda key, data: software(key, CFB(IV), data), ANY),
    "CTR": (CKM.AES_CTR, ctr(128, IV), lambda key, data: software(key, modes.CTR(IV), data), ANY),
    "CTR 24": (CKM.AES_CTR, ctr(24, CARRY), lambda key, data: software(key, modes.CTR(CARRY), data), ANY),
    "GCM": (CKM.AES_GCM, gcm(IV[:12], b"more"), lambda key, data: AESGCM(key).encrypt(IV[:12], data, b"more"), ANY),
    "GCM 96": (CKM.AES_GCM, gcm(IV[:12], tag=96), lambda key, data: AESGCM(key).encrypt(IV[:12], data, b"")[:-4], ANY),
    "GCM 16": (CKM.AES_GCM, gcm(IV, IV), lambda key, data: AESGCM(key).encrypt(IV, data, IV), ANY),
    "GCM 60": (CKM.AES_GCM, gcm(IV * 4, IV), lambda key, data: AESGCM(key).encrypt(IV * 4, data, IV), ANY),
    "KEY_WRAP": (CKM.AES_KEY_WRAP, b"", keywrap.aes_key_wrap, (16, 24, 64)),
    "KEY_WRAP_PAD": (CKM.AES_KEY_WRAP_PAD, b"", keywrap.aes_key_wrap_with_padding, (1, 8, 20, 64)),
    "KEY_WRAP_KWP": (CKM.AES_KEY_WRAP_KWP, b"", keywrap.aes_key_wrap_with_padding, (7, 33)),
}


@pytest.fixture(params=[16, 32], ids=["128", "256"])
def known(request, token, session):
    """A key of the TPM whose value is known here: handle and value."""
    value = os.urandom(request.param)
    key = aes(token, session, value, with_=KEPT)
    assert places() == [True]
    return key, value


@pytest.mark.parametrize("word", CIPHERS)
def test_every_cipher(token, session, known, word, proxy):
    (key, value), (mechanism, parameter, expect, lengths) = known, CIPHERS[word]
    for length in lengths:
        data = os.urandom(length)
        expected = expect(value, data)
        proxy.clear()
        assert token.crypt("Encrypt", session, key, mechanism, data, parameter) == expected, length
        assert not expected or "EncryptDecrypt2" in proxy.names
        assert token.crypt("Decrypt", session, key, mechanism, expected, parameter) == data, length
        for size in (7, 16, 1500):
            parts = (
                (in_parts(data, size), in_parts(expected, size)) if size > 7 or length < 50 else ([data], [expected])
            )
            assert b"".join(token.crypt_parts("Encrypt", session, key, mechanism, parts[0], parameter)) == expected
            assert b"".join(token.crypt_parts("Decrypt", session, key, mechanism, parts[1], parameter)) == data


@pytest.mark.parametrize("associated", [b"", b"more", bytes(0x10001)], ids=len)
@pytest.mark.parametrize(("nonce", "tag"), [(7, 4), (12, 16), (13, 10)])
def test_ccm(token, session, known, nonce, tag, associated):
    key, value = known
    for length in (0, 1, 16, 1023, 2100):
        data, iv = os.urandom(length), os.urandom(nonce)
        expected = AESCCM(value, tag).encrypt(iv, data, associated)
        parameter = ccm(length, iv, associated, tag)
        assert token.crypt("Encrypt", session, key, CKM.AES_CCM, data, parameter) == expected
        assert token.crypt("Decrypt", session, key, CKM.AES_CCM, expected, parameter) == data
        assert (
            b"".join(token.crypt_parts("Encrypt", session, key, CKM.AES_CCM, in_parts(data, 99), parameter)) == expected
        )


@pytest.mark.parametrize("word", ["GCM", "GCM 96", "CCM", "KEY_WRAP", "KEY_WRAP_PAD", "CBC_PAD"])
def test_what_was_changed_is_refused(token, session, known, word):
    key, _ = known
    data = bytes(range(32))
    mechanism, parameter, *_ = CIPHERS.get(word, (CKM.AES_CCM, ccm(32, IV[:12])))
    encrypted = token.crypt("Encrypt", session, key, mechanism, data, parameter)
    places_ = range(len(encrypted)) if word != "CBC_PAD" else [len(data) - 1]
    for at in places_:
        changed = encrypted[:at] + bytes((encrypted[at] ^ 1,)) + encrypted[at + 1 :]
        fails(CKR.ENCRYPTED_DATA_INVALID, token.crypt, "Decrypt", session, key, mechanism, changed, parameter)
    for short in (b"", encrypted[:3]):
        fails(CKR.ENCRYPTED_DATA_LEN_RANGE, token.crypt, "Decrypt", session, key, mechanism, short, parameter)


def test_codes_by_aes(token, session, known):
    key, value = known
    for length in (1, 15, 16, 17, 32, 1024, 1025, 3000):
        data = os.urandom(length)
        plain = software(value, modes.CBC(bytes(16)), data + bytes(-length % 16))[-16:]
        for mechanism, parameter, code in (
            (CKM.AES_CMAC, b"", mac(value, data)),
            (CKM.AES_CMAC_GENERAL, ulongs(5), mac(value, data)[:5]),
            (CKM.AES_MAC, b"", plain[:8]),
            (CKM.AES_MAC_GENERAL, ulongs(16), plain),
        ):
            assert token.sign(session, key, mechanism, data, parameter) == code
            assert token.sign_parts(session, key, mechanism, in_parts(data, 100), parameter) == code
            token.verify(session, key, mechanism, data, code, parameter)
            wrong = bytes((code[0] ^ 1,)) + code[1:]
            fails(CKR.SIGNATURE_INVALID, token.verify, session, key, mechanism, data, wrong, parameter)
    assert token.sign(session, key, CKM.AES_CMAC, b"") == mac(value, b"")


def test_keys_are_wrapped_by_a_key_in_the_tpm(token, session, known):
    key, value = known
    other = secret_key(token, session, bytes(range(32)), CKK.AES, EXTRACTABLE=TRUE)
    wrapped = token.wrap(session, key, other, CKM.AES_KEY_WRAP)
    assert keywrap.aes_key_unwrap(value, wrapped) == bytes(range(32))
    template = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.AES), CKA.EXTRACTABLE: FALSE, **KEPT}
    back = token.unwrap(session, key, CKM.AES_KEY_WRAP, wrapped, template)
    assert places() == [True, True]
    encrypted = token.crypt("Encrypt", session, back, CKM.AES_ECB, bytes(16))
    assert encrypted == software(bytes(range(32)), modes.ECB(), bytes(16))
    assert token.get(session, back, CKA.LOCAL) == token.get(session, back, CKA.ALWAYS_SENSITIVE) == FALSE


# -- HMAC


@pytest.mark.parametrize("digest", OF_HASH)
def test_hmac_of_every_length(token, session, digest, proxy):
    key_type, mechanism, general = OF_HASH[digest]
    block = 64 if digest in {"sha1", "sha256"} else 128
    for length in (1, 16, block):
        value = os.urandom(length)
        keys = [hmac_key(token, session, value, key_type)]
        if length <= 64:
            keys.append(hmac_key(token, session, value, CKK.GENERIC_SECRET, ALLOWED_MECHANISMS=ALLOWED))
        for key in keys:
            for size in (0, 1, 1024, 1025, 2048, 5000):
                data = os.urandom(size)
                code = hmac.new(value, data, digest).digest()
                assert token.sign(session, key, mechanism, data) == code
                token.verify(session, key, mechanism, data, code)
                assert token.sign(session, key, general, data, ulongs(4)) == code[:4]
            assert token.sign_parts(session, key, mechanism, in_parts(data, 777)) == code
            token.verify_parts(session, key, mechanism, in_parts(data, 1024), code)
            fails(CKR.SIGNATURE_INVALID, token.verify, session, key, mechanism, data + b"x", code)
    assert all(places())
    proxy.clear()
    token.sign(session, key, mechanism, bytes(1024))
    assert proxy.names == ["HMAC"]
    token.sign(session, key, mechanism, bytes(2049))
    assert proxy.names == ["HMAC", "HMAC_Start", "SequenceUpdate", "SequenceUpdate", "SequenceComplete"]


@pytest.mark.parametrize("at", ["HMAC_Start", "SequenceUpdate", "SequenceComplete"])
def test_a_sequence_that_the_tpm_loses_begins_again(token, session, swtpm, proxy, at):
    """All that the TPM has loaded goes in the middle of a message."""
    key = hmac_key(token, session, bytes(range(32)), CKK.SHA256_HMAC)
    token.sign(session, key, CKM.SHA256_HMAC, b"")
    asked = []

    def flush(request):
        if NAMES.get(int.from_bytes(request[6:10], "big")) == at and not asked:
            asked.append(at)
            swtpm.flush()

    data, proxy.answer = os.urandom(3000), flush
    assert token.sign(session, key, CKM.SHA256_HMAC, data) == hmac.new(bytes(range(32)), data, "sha256").digest()
    assert asked


def test_a_logout_ends_a_long_message(token, session, proxy):
    """It does not wait for the end, and nothing of the message begins again."""
    key = hmac_key(token, session, bytes(range(32)), CKK.SHA256_HMAC)
    other, errors = token.open(token.slots()[0]), []

    def sign() -> None:
        with pytest.raises(Rv) as error:
            token.sign(session, key, CKM.SHA256_HMAC, bytes(1 << 20))
        errors.append(error.value)

    thread = threading.Thread(target=sign, daemon=True)
    thread.start()
    wait_until(lambda: "SequenceUpdate" in proxy.names, "the first part")
    token.logout(other)
    join(thread)
    assert errors == [CKR.USER_NOT_LOGGED_IN]
    assert proxy.names.count("HMAC_Start") == 1
    assert "SequenceComplete" not in proxy.names


# -- which keys


@pytest.mark.parametrize(
    ("more", "in_tpm"),
    [
        ({}, True),
        ({"LABEL": b"named", "SIGN": FALSE}, True),
        ({"TOKEN": FALSE}, False),
        ({"SENSITIVE": TRUE}, True),
        ({"SENSITIVE": FALSE}, True),
        ({"EXTRACTABLE": TRUE}, False),
        ({"DERIVE": TRUE}, False),
    ],
    ids=str,
)
def test_which_aes_keys_are_in_the_tpm(token, session, more, in_tpm):
    key = generate(token, session, CKM.AES_KEY_GEN, 32, **more)
    made = secret_key(token, session, bytes(32), CKK.AES, **{"TOKEN": TRUE, "PRIVATE": TRUE, **more})
    assert places() == ([] if "TOKEN" in more else [in_tpm] * 2)
    for one in (key, made):
        encrypted = token.crypt("Encrypt", session, one, CKM.AES_GCM, b"data", gcm(bytes(12)))
        assert token.crypt("Decrypt", session, one, CKM.AES_GCM, encrypted, gcm(bytes(12))) == b"data"


def test_sizes_that_the_tpm_does_not_have(token, session):
    assert "aes192" not in store().tokens()[0].capabilities.split()
    key = generate(token, session, CKM.AES_KEY_GEN, 24)
    assert places() == [False]
    assert len(token.crypt("Encrypt", session, key, CKM.AES_ECB, bytes(16))) == 16


@pytest.mark.parametrize(
    ("key_type", "length", "allowed", "in_tpm"),
    [
        (CKK.GENERIC_SECRET, 32, b"", False),
        (CKK.GENERIC_SECRET, 64, ALLOWED, True),
        (CKK.GENERIC_SECRET, 65, ALLOWED, False),
        (CKK.GENERIC_SECRET, 32, ALLOWED + ulongs(CKM.SHA224_HMAC), False),
        (CKK.GENERIC_SECRET, 32, ALLOWED + ulongs(CKM.SHA256_KEY_DERIVATION), False),
        (CKK.GENERIC_SECRET, 32, ulongs(0x8000FFFF), False),
        (CKK.SHA256_HMAC, 64, b"", True),
        (CKK.SHA256_HMAC, 65, b"", False),
        (CKK.SHA512_HMAC, 128, b"", True),
        (CKK.SHA512_HMAC, 129, b"", False),
        (CKK.SHA224_HMAC, 28, b"", False),
        (CKK.HKDF, 32, b"", False),
    ],
)
def test_which_other_keys_are_in_the_tpm(token, session, key_type, length, allowed, in_tpm):
    hmac_key(token, session, os.urandom(length), key_type, ALLOWED_MECHANISMS=allowed)
    assert places() == [in_tpm]


@pytest.mark.parametrize(("length", "in_tpm"), [(32, True), (64, True), (65, False)])
def test_generated_generic_secrets(token, session, length, in_tpm):
    key = generate(token, session, CKM.GENERIC_SECRET_KEY_GEN, length, ALLOWED_MECHANISMS=ALLOWED)
    assert places() == [in_tpm]
    assert len(token.sign(session, key, CKM.SHA512_HMAC, b"data")) == 64
    fails(CKR.MECHANISM_INVALID, token.sign, session, key, CKM.SHA224_HMAC, b"data")
    assert token.get(session, key, CKA.NEVER_EXTRACTABLE) == TRUE


def test_a_generic_secret_without_a_list_works_with_all_that_it_is_for(token, session):
    key = hmac_key(token, session, bytes(range(32)), CKK.GENERIC_SECRET)
    for row in MECHANISMS.values():
        if row.form == "hmac" and row.name.endswith("HMAC"):
            assert (
                token.sign(session, key, row.type, b"data") == hmac.new(bytes(range(32)), b"data", row.digest).digest()
            )


def old_token(token):
    """Make the token one that was made before its TPM was asked for AES and HMAC; give its session."""
    token.finalize()
    words = [word for word in store().tokens()[0].capabilities.split() if word[:3] != "aes" and word != "hmac"]
    with sqlite3.connect(Path(os.environ["P11TPM_STORE"]) / "p11tpm.db") as db:
        db.execute("UPDATE token SET capabilities=?", (" ".join(words),))
    token.initialize()
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    return session


def hardware(token):
    """Return the names of the secret keys' mechanisms that say CKF_HW."""
    slot, found = token.slots()[0], set()
    for type_, row in MECHANISMS.items():
        info = token.ffi.new("CK_MECHANISM_INFO *")
        token.C_GetMechanismInfo(slot, type_, info)
        if info.flags & CKF.HW and not row.of_pairs:
            found.add(name(CKM, type_))
    return found


@pytest.mark.usefixtures("session")
def test_what_says_that_it_is_in_hardware(token):
    of_aes = {name(CKM, one[0]) for one in CIPHERS.values()} | {"CKM_AES_KEY_GEN", "CKM_AES_CCM"}
    of_aes |= {f"CKM_AES_{word}{general}" for word in ("MAC", "CMAC") for general in ("", "_GENERAL")}
    assert hardware(token) == of_aes | {name(CKM, one) for _, *both in OF_HASH.values() for one in both}
    old_token(token)
    assert hardware(token) == set()


def test_a_token_from_before(token, session):
    session = old_token(token)
    keys = generate(token, session, CKM.AES_KEY_GEN, 16), hmac_key(token, session, bytes(32), CKK.SHA256_HMAC)
    assert places() == [False, False]
    encrypted = token.crypt("Encrypt", session, keys[0], CKM.AES_CBC_PAD, b"data", IV)
    assert token.crypt("Decrypt", session, keys[0], CKM.AES_CBC_PAD, encrypted, IV) == b"data"
    assert token.sign(session, keys[1], CKM.SHA256_HMAC, b"data") == hmac.new(bytes(32), b"data", "sha256").digest()


# -- what the TPM is asked, and what stays


def test_the_tpm_makes_the_key(token, session, proxy):
    proxy.clear()
    key = generate(token, session, CKM.AES_KEY_GEN, 32)
    assert proxy.names == ["Create", "Load", "EncryptDecrypt2"]
    assert token.get(session, key, CKA.CHECK_VALUE) == token.crypt("Encrypt", session, key, CKM.AES_ECB, bytes(16))[:3]
    for type_ in (CKA.LOCAL, CKA.NEVER_EXTRACTABLE):
        assert token.get(session, key, type_) == TRUE
    assert token.get(session, key, CKA.VALUE_LEN) == ulong(32)
    assert token.get(session, key, CKA.KEY_GEN_MECHANISM) == ulong(CKM.AES_KEY_GEN)


def test_one_command_for_each_kibibyte(token, session, known, proxy):
    key, _ = known
    token.crypt("Encrypt", session, key, CKM.AES_ECB, bytes(16))
    for mechanism, parameter in ((CKM.AES_ECB, b""), (CKM.AES_CBC, IV), (CKM.AES_CTR, ctr(128, IV))):
        proxy.clear()
        token.C_EncryptInit(session, token.mechanism(mechanism, parameter), key)
        length = token.ulong()
        data = bytes(3 * 1024)
        token.C_Encrypt(session, data, len(data), token.ffi.NULL, length)
        assert (length[0], proxy.names) == (len(data), []), "a question about the length asks the TPM nothing"
        token.C_Encrypt(session, data, len(data), token.ffi.new("CK_BYTE[]", len(data)), length)
        assert proxy.names == ["EncryptDecrypt2"] * 3


def test_after_restarts_of_everything(token, session, known, swtpm):
    key, value = known
    signer = hmac_key(token, session, value, CKK.SHA256_HMAC, LABEL=b"signer")
    expected = software(value, modes.CBC(IV), pad(b"data"))
    assert token.crypt("Encrypt", session, key, CKM.AES_CBC_PAD, b"data", IV) == expected
    swtpm.restart()
    assert token.crypt("Encrypt", session, key, CKM.AES_CBC_PAD, b"data", IV) == expected
    token.finalize()
    swtpm.restart()
    token.initialize()
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    (key,) = token.find(session, {CKA.KEY_TYPE: ulong(CKK.AES)})
    (signer,) = token.find(session, {CKA.LABEL: b"signer"})
    assert token.crypt("Encrypt", session, key, CKM.AES_CBC_PAD, b"data", IV) == expected
    assert token.sign(session, signer, CKM.SHA256_HMAC, b"data") == hmac.new(value, b"data", "sha256").digest()
    assert token.get(session, key, CKA.CHECK_VALUE) == software(value, modes.ECB(), bytes(16))[:3]
    token.logout(session)
    assert token.find(session, {CKA.CLASS: ulong(CKO.SECRET_KEY)}) == []


def test_where_nobody_can_listen(token, session, known, proxy):
    """Without sessions: a password, and nothing is hidden."""
    key, value = known
    token.finalize()
    Path(os.environ["P11TPM_CONF"]).write_text("log = off\nbus = trusted\n")
    token.initialize()
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    (key,) = token.find(session, {CKA.CLASS: ulong(CKO.SECRET_KEY)})
    signer, data = hmac_key(token, session, value, CKK.SHA384_HMAC), os.urandom(2500)
    proxy.clear()
    assert token.crypt("Encrypt", session, key, CKM.AES_CTR, data, ctr(128, IV)) == software(value, modes.CTR(IV), data)
    assert token.sign(session, signer, CKM.SHA384_HMAC, data) == hmac.new(value, data, "sha384").digest()
    assert "StartAuthSession" not in proxy.names


def test_the_value_is_not_in_the_store(token, session):
    value, clear = os.urandom(32), os.urandom(32)
    aes(token, session, value, with_=KEPT)
    hmac_key(token, session, value, CKK.SHA256_HMAC)
    token.create(session, {CKA.CLASS: ulong(CKO.DATA), CKA.PRIVATE: FALSE, CKA.TOKEN: TRUE, CKA.VALUE: clear})
    files = [path.read_bytes() for path in Path(os.environ["P11TPM_STORE"]).rglob("*") if path.is_file()]
    assert any(clear in content for content in files), "this is how it would be found"
    pieces = [value[at : at + 6] for at in range(len(value) - 5)]
    assert not any(piece in content for piece in pieces for content in files)


def test_nothing_gets_it_out(token, session, known):
    key, _ = known
    fails(CKR.ATTRIBUTE_SENSITIVE, token.get, session, key, CKA.VALUE)
    other = aes(token, session, bytes(16))
    fails(CKR.KEY_UNEXTRACTABLE, token.wrap, session, other, key, CKM.AES_KEY_WRAP)
    token.set(session, key, {CKA.SENSITIVE: TRUE})
    for change in ({CKA.EXTRACTABLE: TRUE}, {CKA.SENSITIVE: FALSE}, {CKA.DERIVE: TRUE}):
        fails(CKR.ATTRIBUTE_READ_ONLY, token.set, session, key, change)
        fails(CKR.ATTRIBUTE_READ_ONLY, token.C_CopyObject, session, key, *token.template(change), token.ulong())
    token.set(session, key, {CKA.DERIVE: FALSE})
    fails(
        CKR.KEY_FUNCTION_NOT_PERMITTED, token.derive, session, key, CKM.SHA256_KEY_DERIVATION, {CKA.VALUE_LEN: ulong(8)}
    )
    token.C_DigestInit(session, token.mechanism(CKM.SHA256))
    fails(CKR.KEY_INDIGESTIBLE, token.C_DigestKey, session, key)


@pytest.mark.parametrize("changes", [{CKA.LABEL: b"other"}, {CKA.TOKEN: FALSE}], ids=["token", "session"])
def test_a_copy_is_in_the_tpm_too(token, session, known, changes):
    key, value = known
    copy = token.ulong()
    token.C_CopyObject(session, key, *token.template(changes), copy)
    assert all(places())
    token.C_DestroyObject(session, key)
    encrypted = token.crypt("Encrypt", session, copy[0], CKM.AES_CBC, bytes(2048), IV)
    assert encrypted == software(value, modes.CBC(IV), bytes(2048))
    assert token.get(session, copy[0], CKA.CHECK_VALUE) == software(value, modes.ECB(), bytes(16))[:3]
    fails(CKR.ATTRIBUTE_SENSITIVE, token.get, session, copy[0], CKA.VALUE)


def test_a_copy_of_a_session_key_goes_into_the_tpm(token, session):
    key, copy = secret_key(token, session, bytes(range(16)), CKK.AES, PRIVATE=TRUE), token.ulong()
    token.C_CopyObject(session, key, *token.template(KEPT), copy)
    assert places() == [True]
    encrypted = token.crypt("Encrypt", session, copy[0], CKM.AES_ECB, bytes(16))
    assert encrypted == software(bytes(range(16)), modes.ECB(), bytes(16))


def test_the_check_value_of_a_template_is_checked(token, session):
    check = software(bytes(16), modes.ECB(), bytes(16))[:3]
    aes(token, session, bytes(16), with_={**KEPT, CKA.CHECK_VALUE: check})
    kind = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.AES), **KEPT, CKA.VALUE: bytes(16)}
    fails(CKR.ATTRIBUTE_VALUE_INVALID, token.create, session, {**kind, CKA.CHECK_VALUE: b"abc"})
    assert places() == [True]


def test_keys_take_turns(token, session, known, proxy):
    """The TPM has one of them at a time, as it is with other keys."""
    key, value = known
    signer = hmac_key(token, session, value, CKK.SHA256_HMAC)
    for _ in range(2):
        proxy.clear()
        token.crypt("Encrypt", session, key, CKM.AES_ECB, bytes(16))
        token.sign(session, signer, CKM.SHA256_HMAC, b"data")
        assert proxy.names.count("Load") <= 2
    assert proxy.names == ["FlushContext", "Load", "EncryptDecrypt2", "FlushContext", "Load", "HMAC"]
