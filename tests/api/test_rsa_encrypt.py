"""RSA encryption in software and decryption by the TPM, against cryptography and the openssl program."""

import os
import subprocess

import pytest
from ciphers import fails, room
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptoki import RO, USER, Rv
from keys import public_key, rsa_pair
from parameters import oaep, ulongs

from p11tpm.attribute import FALSE, ulong
from p11tpm.ck import CKA, CKG, CKK, CKM, CKO, CKR

PIN = b"123456"
SHA2 = {  # hash, mask generation function: as cryptography has them
    "sha1": (CKM.SHA_1, CKG.MGF1_SHA1, hashes.SHA1()),
    "sha224": (CKM.SHA224, CKG.MGF1_SHA224, hashes.SHA224()),
    "sha256": (CKM.SHA256, CKG.MGF1_SHA256, hashes.SHA256()),
    "sha384": (CKM.SHA384, CKG.MGF1_SHA384, hashes.SHA384()),
    "sha512": (CKM.SHA512, CKG.MGF1_SHA512, hashes.SHA512()),
}
SHA3 = {
    "sha3-224": (CKM.SHA3_224, CKG.MGF1_SHA3_224),
    "sha3-256": (CKM.SHA3_256, CKG.MGF1_SHA3_256),
    "sha3-384": (CKM.SHA3_384, CKG.MGF1_SHA3_384),
    "sha3-512": (CKM.SHA3_512, CKG.MGF1_SHA3_512),
}


@pytest.fixture
def pair(token, session):
    public, private = rsa_pair(token, session)
    return public, private, public_key(token, session, public)


def software_key(run, session, bits=2048, **more):
    """Return a public session object, and the private key that this process has."""
    key = rsa.generate_private_key(65537, bits)
    modulus = key.public_key().public_numbers().n.to_bytes((bits + 7) // 8, "big")
    template = {CKA.CLASS: ulong(CKO.PUBLIC_KEY), CKA.KEY_TYPE: ulong(CKK.RSA), CKA.MODULUS: modulus}
    return run.create(session, {**template, CKA.PUBLIC_EXPONENT: b"\x01\x00\x01", **more.get("with_", {})}), key


def raw(key, block):
    """Encrypt a block as it is."""
    numbers = key.public_numbers()
    return pow(int.from_bytes(block, "big"), numbers.e, numbers.n).to_bytes(256, "big")


def test_public_keys_need_no_login_and_no_tpm(token, proxy):
    session = token.open(token.slots()[0], RO)
    proxy.clear()
    public, key = software_key(token, session)
    for mechanism, parameter, scheme in (
        (CKM.RSA_PKCS, b"", padding.PKCS1v15()),
        (CKM.RSA_PKCS_OAEP, oaep(), padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)),
    ):
        for data in (b"", b"data", bytes(214)):
            assert data == key.decrypt(token.crypt("Encrypt", session, public, mechanism, data, parameter), scheme)
    encrypted = token.crypt("Encrypt", session, public, CKM.RSA_X_509, b"data")
    numbers = key.private_numbers()
    assert int.from_bytes(b"data", "big") == pow(int.from_bytes(encrypted, "big"), numbers.d, numbers.public_numbers.n)
    assert proxy.commands == []


def test_a_token_key_without_a_login(token, session, pair, proxy):
    public, _, key = pair
    token.logout(session)
    proxy.clear()
    encrypted = token.crypt("Encrypt", session, public, CKM.RSA_PKCS_OAEP, b"data", oaep())
    assert proxy.commands == []
    token.login(session, USER, PIN)
    private = token.find(session, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)})[0]
    assert token.crypt("Decrypt", session, private, CKM.RSA_PKCS_OAEP, encrypted, oaep()) == b"data"
    assert key.key_size == 2048


@pytest.mark.parametrize("bits", [1024, 1031, 2048, 4096])
def test_public_keys_of_any_size(token, session, bits):
    public, key = software_key(token, session, bits)
    encrypted = token.crypt("Encrypt", session, public, CKM.RSA_PKCS, b"data")
    assert len(encrypted) == (bits + 7) // 8
    assert key.decrypt(encrypted, padding.PKCS1v15()) == b"data"


@pytest.mark.parametrize("modulus", [b"\xc5" * 64, b"\x00" + b"\xc5" * 64])
def test_the_smallest_public_key(token, session, modulus):
    template = {CKA.CLASS: ulong(CKO.PUBLIC_KEY), CKA.KEY_TYPE: ulong(CKK.RSA), CKA.MODULUS: modulus}
    public = token.create(session, {**template, CKA.PUBLIC_EXPONENT: b"\x03"})
    encrypted = token.crypt("Encrypt", session, public, CKM.RSA_X_509, b"\x07" * 64)
    expected = pow(int.from_bytes(b"\x07" * 64, "big"), 3, int.from_bytes(modulus, "big"))
    assert expected.to_bytes(64, "big") == encrypted


def test_decryption_is_one_command(token, session, pair, proxy):
    _, private, key = pair
    token.sign(session, private, CKM.RSA_PKCS, b"loads the key")
    for mechanism, parameter, encrypted in (
        (CKM.RSA_PKCS, b"", key.encrypt(b"data", padding.PKCS1v15())),
        (
            CKM.RSA_PKCS_OAEP,
            oaep(),
            key.encrypt(b"data", padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)),
        ),
    ):
        proxy.clear()
        token.C_DecryptInit(session, token.mechanism(mechanism, parameter), private)
        length = token.ulong()
        token.C_Decrypt(session, encrypted, len(encrypted), token.ffi.NULL, length)
        assert length[0] in range(4, 257)
        assert proxy.commands == []
        out, length = room(token, 3)
        for _ in range(2):
            fails(CKR.BUFFER_TOO_SMALL, token.C_Decrypt, session, encrypted, len(encrypted), out, length)
            assert length[0] == 4
            length[0] = 3
        out, length = room(token, 4)
        token.C_Decrypt(session, encrypted, len(encrypted), out, length)
        assert bytes(token.ffi.buffer(out, length[0])) == b"data"
        assert [command.name for command in proxy.commands] == ["RSA_Decrypt"]


@pytest.mark.parametrize("length", [0, 1, 100, 245])
def test_pkcs1(token, session, pair, length):
    public, private, key = pair
    data = os.urandom(length)
    assert data == token.crypt("Decrypt", session, private, CKM.RSA_PKCS, key.encrypt(data, padding.PKCS1v15()))
    encrypted = [token.crypt("Encrypt", session, public, CKM.RSA_PKCS, data) for _ in range(2)]
    assert encrypted[0] != encrypted[1]
    assert [data] * 2 == [token.crypt("Decrypt", session, private, CKM.RSA_PKCS, one) for one in encrypted]


@pytest.mark.parametrize("label", [b"", b"a label", bytes(1000)])
@pytest.mark.parametrize("digest", SHA2)
def test_oaep(token, session, pair, digest, label):
    public, private, key = pair
    hash_, _, made = SHA2[digest]
    for mask in (digest, "sha1", "sha256"):
        _, mask_type, mask_made = SHA2[mask]
        parameter = oaep(hash_, mask_type, label)
        scheme = padding.OAEP(padding.MGF1(mask_made), made, label or None)
        for data in (b"", b"\x00\x01data", bytes(256 - 2 * made.digest_size - 2)):
            encrypted = key.encrypt(data, scheme)
            assert data == token.crypt("Decrypt", session, private, CKM.RSA_PKCS_OAEP, encrypted, parameter)
    encrypted = token.crypt("Encrypt", session, public, CKM.RSA_PKCS_OAEP, b"data", parameter)
    assert token.crypt("Decrypt", session, private, CKM.RSA_PKCS_OAEP, encrypted, parameter) == b"data"
    other = oaep(hash_, SHA2["sha256"][1], label + b"x")
    call = token.crypt, "Decrypt", session, private, CKM.RSA_PKCS_OAEP, encrypted
    fails(CKR.ENCRYPTED_DATA_INVALID, *call, other)
    fails(CKR.ENCRYPTED_DATA_INVALID, *call, oaep(hash_, SHA2["sha512"][1], label))


@pytest.mark.parametrize("digest", SHA2)
def test_oaep_of_ours_is_read_by_cryptography(token, session, digest):
    public, key = software_key(token, session)
    hash_, mask, made = SHA2[digest]
    encrypted = token.crypt("Encrypt", session, public, CKM.RSA_PKCS_OAEP, b"data", oaep(hash_, mask, b"label"))
    assert key.decrypt(encrypted, padding.OAEP(padding.MGF1(made), made, b"label")) == b"data"


@pytest.mark.parametrize("digest", SHA3)
def test_oaep_with_sha3_as_openssl_does_it(token, session, pair, tmp_path, digest):
    public, private, key = pair
    hash_, mask = SHA3[digest]
    (tmp_path / "key.pem").write_bytes(
        key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    options = "rsa_padding_mode:oaep", f"rsa_oaep_md:{digest}", f"rsa_mgf1_md:{digest}"
    command = ["openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", tmp_path / "key.pem"]
    command += [word for option in options for word in ("-pkeyopt", option)]
    done = subprocess.run(command, input=b"data", capture_output=True, timeout=60, check=True)
    parameter = oaep(hash_, mask)
    assert token.crypt("Decrypt", session, private, CKM.RSA_PKCS_OAEP, done.stdout, parameter) == b"data"
    encrypted = token.crypt("Encrypt", session, public, CKM.RSA_PKCS_OAEP, b"more data", parameter)
    assert token.crypt("Decrypt", session, private, CKM.RSA_PKCS_OAEP, encrypted, parameter) == b"more data"


def test_raw(token, session, pair):
    public, private, key = pair
    block = b"\x00" + os.urandom(255)
    assert block == token.crypt("Decrypt", session, private, CKM.RSA_X_509, raw(key, block))
    assert raw(key, block) == token.crypt("Encrypt", session, public, CKM.RSA_X_509, block)
    encrypted = token.crypt("Encrypt", session, public, CKM.RSA_X_509, b"short")
    assert b"short".rjust(256, b"\0") == token.crypt("Decrypt", session, private, CKM.RSA_X_509, encrypted)
    fails(CKR.DATA_INVALID, token.crypt, "Encrypt", session, public, CKM.RSA_X_509, b"\xff" * 256)


# -- what was not encrypted like this: one answer

WRONG_BLOCKS = {
    "first byte": b"\x01\x02" + b"\x07" * 200 + b"\x00" + bytes(53),
    "a signature": b"\x00\x01" + b"\xff" * 200 + b"\x00" + bytes(53),
    "type": b"\x00\x03" + b"\x07" * 200 + b"\x00" + bytes(53),
    "no zero": b"\x00\x02" + b"\x07" * 254,
    "no padding": b"\x00\x02\x00" + b"\x07" * 253,
    "seven bytes of padding": b"\x00\x02" + b"\x07" * 7 + b"\x00" + b"\x07" * 246,
    "zeros": bytes(256),
    "one": bytes(255) + b"\x01",
}


@pytest.mark.parametrize("name", WRONG_BLOCKS)
def test_wrong_pkcs1_padding_is_one_error(token, session, pair, name):
    _, private, key = pair
    for mechanism, parameter in ((CKM.RSA_PKCS, b""), (CKM.RSA_PKCS_OAEP, oaep())):
        encrypted = raw(key, WRONG_BLOCKS[name])
        fails(CKR.ENCRYPTED_DATA_INVALID, token.crypt, "Decrypt", session, private, mechanism, encrypted, parameter)


def test_the_shortest_padding(token, session, pair):
    _, private, key = pair
    encrypted = raw(key, b"\x00\x02" + b"\x07" * 8 + b"\x00" + b"\x07" * 245)
    assert token.crypt("Decrypt", session, private, CKM.RSA_PKCS, encrypted) == b"\x07" * 245
    encrypted = raw(key, b"\x00\x02" + b"\x07" * 253 + b"\x00")
    assert token.crypt("Decrypt", session, private, CKM.RSA_PKCS, encrypted) == b""


def test_encrypted_data_that_can_not_be(token, session, pair, proxy):
    _, private, key = pair
    proxy.clear()
    modulus = key.public_numbers().n.to_bytes(256, "big")
    for mechanism, parameter in ((CKM.RSA_PKCS, b""), (CKM.RSA_PKCS_OAEP, oaep()), (CKM.RSA_X_509, b"")):
        call = token.crypt, "Decrypt", session, private, mechanism
        for length in (0, 1, 255, 257, 512):
            fails(CKR.ENCRYPTED_DATA_LEN_RANGE, *call, bytes(length), parameter)
        for block in (modulus, b"\xff" * 256):
            fails(CKR.ENCRYPTED_DATA_INVALID, *call, block, parameter)
    assert proxy.commands == []


def test_too_much_data(token, session, pair):
    public, _, _ = pair
    for mechanism, parameter, most in (
        (CKM.RSA_PKCS, b"", 245),
        (CKM.RSA_PKCS_OAEP, oaep(), 214),
        (CKM.RSA_PKCS_OAEP, oaep(CKM.SHA512, CKG.MGF1_SHA512), 126),
        (CKM.RSA_X_509, b"", 256),
    ):
        assert len(token.crypt("Encrypt", session, public, mechanism, bytes(most), parameter)) == 256
        for length in (most + 1, 512):
            fails(CKR.DATA_LEN_RANGE, token.crypt, "Encrypt", session, public, mechanism, bytes(length), parameter)


def test_rsa_takes_its_data_in_one_part(token, session, pair):
    public, private, _ = pair
    for way, key in (("Encrypt", public), ("Decrypt", private)):
        fails(CKR.FUNCTION_NOT_SUPPORTED, token.crypt_parts, way, session, key, CKM.RSA_PKCS, [b"data"])
        fails(CKR.FUNCTION_NOT_SUPPORTED, token.crypt_parts, way, session, key, CKM.RSA_PKCS, [])
        fails(CKR.OPERATION_NOT_INITIALIZED, getattr(token, f"C_{way}"), session, b"", 0, *room(token, 256))


def test_keys_and_parameters_that_are_not_for_it(token, session, pair):
    public, private, _ = pair
    mechanism = token.mechanism(CKM.RSA_PKCS)
    fails(CKR.KEY_TYPE_INCONSISTENT, token.C_EncryptInit, session, mechanism, private)
    fails(CKR.KEY_TYPE_INCONSISTENT, token.C_DecryptInit, session, mechanism, public)
    fails(CKR.KEY_TYPE_INCONSISTENT, token.C_EncryptInit, session, token.mechanism(CKM.AES_ECB), public)
    barred, _ = software_key(token, session, with_={CKA.ENCRYPT: FALSE})
    fails(CKR.KEY_FUNCTION_NOT_PERMITTED, token.C_EncryptInit, session, mechanism, barred)
    for parameter in (
        b"",
        ulongs(1, 2, 3),
        oaep(0x999),
        oaep(mask=99),
        oaep(label=b"x")[:16] + bytes(8) + oaep(label=b"x")[24:],
    ):
        fails(
            CKR.MECHANISM_PARAM_INVALID,
            *(token.crypt, "Encrypt", session, public, CKM.RSA_PKCS_OAEP, b"data", parameter),
        )
    for way, key in (("Encrypt", public), ("Decrypt", private)):
        init = getattr(token, f"C_{way}Init")
        init(session, mechanism, key)
        fails(CKR.OPERATION_ACTIVE, init, session, mechanism, key)
        init(session, token.ffi.NULL, 0)


def test_public_keys_that_can_not_be(token, session):
    template = {CKA.CLASS: ulong(CKO.PUBLIC_KEY), CKA.KEY_TYPE: ulong(CKK.RSA)}
    modulus = b"\xff" * 128
    for numbers in (
        (b"\xff" * 63, b"\x03"),
        (modulus, b"\x01"),
        (modulus, b"\x00"),
        (modulus, b"\xff" * 33),
        (b"\xff" * 4096, b"\x03"),
    ):
        attributes = dict(zip((CKA.MODULUS, CKA.PUBLIC_EXPONENT), numbers, strict=True))
        try:
            public = token.create(session, {**template, **attributes})
        except Rv:
            continue  # refused before it is a key
        fails(CKR.KEY_SIZE_RANGE, token.C_EncryptInit, session, token.mechanism(CKM.RSA_PKCS), public)
