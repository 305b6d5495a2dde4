"""Handles of objects: what they outlive and what they do not (clauses 4.4 and 5.6.9)."""

from __future__ import annotations

import pytest
from cryptoki import SO, USER, Rv
from keys import ec_pair

from p11tpm.ck import CKA, CKM, CKO, CKR

PIN, SO_PIN = b"123456", b"so-secret"
TRUE, FALSE = b"\1", b"\0"


def ulong(number: int) -> bytes:
    return number.to_bytes(8, "little")


def data(label: bytes, *, private: bool, kept: bool) -> dict[int, bytes]:
    """Describe a data object."""
    flags = {CKA.PRIVATE: TRUE if private else FALSE, CKA.TOKEN: TRUE if kept else FALSE}
    return {CKA.CLASS: ulong(CKO.DATA), CKA.LABEL: label, CKA.VALUE: b"value", **flags}


def refused(rv: int, call, *args) -> None:
    with pytest.raises(Rv) as error:
        call(*args)
    assert error.value == rv


@pytest.fixture
def handles(token, session) -> dict[str, int]:
    """Objects of all four kinds, and a key pair."""
    made = {
        f"{'private' if private else 'public'} {'token' if kept else 'session'} object": token.create(
            session, data(b"one", private=private, kept=kept)
        )
        for private in (True, False)
        for kept in (True, False)
    }
    public, private = ec_pair(token, session)
    return {**made, "public key": public, "private key": private}


def of(kind: str, handles: dict[str, int]) -> list[int]:
    return [handle for name, handle in handles.items() if name.startswith(kind)]


def test_handles_of_private_objects_end_with_the_login(token, session, handles):
    token.logout(session)
    for login in (False, True):
        if login:
            token.login(session, USER, PIN)
        for handle in of("private", handles):
            refused(CKR.OBJECT_HANDLE_INVALID, token.get, session, handle, CKA.CLASS)
            refused(CKR.OBJECT_HANDLE_INVALID, token.C_DestroyObject, session, handle)
        refused(CKR.KEY_HANDLE_INVALID, token.sign, session, handles["private key"], CKM.ECDSA, bytes(32))


def test_a_search_after_the_next_login_gives_new_ones(token, session, handles):
    token.logout(session)
    token.login(session, USER, PIN)
    (key,) = token.find(session, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)})
    (kept,) = token.find(session, data(b"one", private=True, kept=True))
    assert not {key, kept} & set(handles.values())
    token.sign(session, key, CKM.ECDSA, bytes(32))
    assert token.get(session, kept, CKA.VALUE) == b"value"
    assert token.find(session, data(b"one", private=True, kept=False)) == []


def test_handles_of_public_objects_stay(token, session, handles):
    public = of("public", handles)
    token.logout(session)
    assert sorted(token.find(session, {})) == sorted(public)
    token.login(session, USER, PIN)
    assert set(public) < set(token.find(session, {}))
    for handle in public:
        token.get(session, handle, CKA.CLASS)


def test_an_operation_begun_before_the_logout_does_not_end_after_it(token, session, handles):
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), handles["private key"])
    token.logout(session)
    token.login(session, USER, PIN)
    out = token.ffi.new("CK_BYTE[]", 64)
    length = token.ulong()
    length[0] = 64
    refused(CKR.OPERATION_NOT_INITIALIZED, token.C_Sign, session, bytes(32), 32, out, length)


def test_every_way_out_of_a_login_ends_them(token, session, handles):
    """The login ends with the last session, too (clause 5.6.2)."""
    slot = token.slots()[0]
    token.close(session)
    again = token.open(slot)
    token.login(again, USER, PIN)
    refused(CKR.OBJECT_HANDLE_INVALID, token.get, again, handles["private key"], CKA.CLASS)
    (key,) = token.find(again, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)})
    token.C_CloseAllSessions(slot)
    again = token.open(slot)
    token.login(again, USER, PIN)
    refused(CKR.OBJECT_HANDLE_INVALID, token.get, again, key, CKA.CLASS)


def test_within_a_login_they_stay(token, session, handles):
    """wpa_supplicant keeps one over each authentication, and over sessions that others close."""
    other = token.open(token.slots()[0])
    for _ in range(3):
        assert token.find(other, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)}) == [handles["private key"]]
        token.sign(session, handles["private key"], CKM.ECDSA, bytes(32))
    token.close(other)
    refused(CKR.USER_ALREADY_LOGGED_IN, token.login, session, USER, PIN)
    token.sign(session, handles["private key"], CKM.ECDSA, bytes(32))


def test_an_so_in_between_changes_nothing_of_that(token, session, handles):
    token.logout(session)
    token.login(session, SO, SO_PIN)
    assert sorted(token.find(session, {})) == sorted(of("public", handles))
    token.logout(session)
    token.login(session, USER, PIN)
    refused(CKR.OBJECT_HANDLE_INVALID, token.get, session, handles["private key"], CKA.CLASS)


def test_a_logout_with_a_store_that_cannot_be_read(token, session, handles, monkeypatch):
    """Nobody stays logged in for that, and no private object keeps its handle."""
    from p11tpm.error import Error
    from p11tpm.store import Store

    def broken(*_args) -> None:
        raise Error(CKR.DEVICE_ERROR, "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "having", broken)
        token.logout(session)
    token.login(session, USER, PIN)
    refused(CKR.OBJECT_HANDLE_INVALID, token.get, session, handles["private key"], CKA.CLASS)
