"""Keys that are made, changed, destroyed, read, derived and wrapped, in the log of uses."""

from __future__ import annotations

import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptoki import RO
from parameters import ecdh
from use_log import AES, DATA, SECRET, VALUE, refused

from p11tpm.attribute import TRUE, ulong
from p11tpm.ck import CKA, CKM, CKO, CKR


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
