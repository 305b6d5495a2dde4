"""The same changes as in test_tampered_tpm, seen from a host: C_Login, C_SignInit and C_Sign.

Never CKR_OK with a wrong result, never CKR_PIN_INCORRECT or a wrong PIN in the store, and the next call works.
"""

from __future__ import annotations

import os

import pytest
from cryptoki import SO, USER
from keys import verify_ecdsa

from api.conftest import PIN, SO_PIN
from fuzz.effort import ALL, rounds
from fuzz.tamper import Change, Tamperer, error, every_change, name_of, some_of
from p11tpm.ck import CKM, CKR, name
from p11tpm.core.pin import ROLES
from p11tpm.error import TPM
from p11tpm.store import Store
from p11tpm.tpm import template

SAMPLE = rounds(150, ALL)
REFUSALS = {CKR.DEVICE_ERROR, CKR.DEVICE_REMOVED, CKR.FUNCTION_FAILED}


def failures(desk) -> list[int]:
    """Wrong PINs in the store, by a connection of its own."""
    store = Store(os.environ["P11TPM_STORE"])
    try:
        return [store.failures(desk.slot, role)[0] for role in ROLES.values()]
    finally:
        store.close()


def login(desk) -> int:
    return desk.run.raw.C_Login(desk.session, USER, PIN, len(PIN))


def sign(desk) -> int:
    """Sign something; a wrong signature is an assertion, whatever the return value is."""
    run, message = desk.run, os.urandom(32)
    rv = run.raw.C_SignInit(desk.session, run.mechanism(CKM.ECDSA_SHA256), desk.key)
    assert rv == CKR.OK
    out, length = run.ffi.new("CK_BYTE[64]"), run.ffi.new("CK_ULONG *", 64)
    rv = run.raw.C_Sign(desk.session, message, len(message), out, length)
    signature = bytes(run.ffi.buffer(out))
    if rv == CKR.OK:
        assert length[0] == 64
        verify_ecdsa(desk.public, signature, message, "sha256")
    else:
        assert signature == bytes(64), "nothing is given out with an error"
    return rv


def sizes_of(desk, action) -> dict[str, int]:
    desk.proxy.once(None)
    assert action(desk) == CKR.OK
    return {command.name: len(command.response) for command in desk.proxy.commands}


def check(desk, change: Change, rv: int) -> None:
    proxy = desk.proxy
    if rv == CKR.OK:
        assert not proxy.applied or not change.must_be_noticed or proxy.names.count(change.command) > 1, change
    else:
        assert rv in REFUSALS, (change, name(CKR, rv))


def test_login(desk, swtpm):
    changes = some_of(list(every_change(sizes_of(desk, login))), SAMPLE)
    desk.run.logout(desk.session)
    for change in changes:
        desk.proxy.once(change)
        rv = login(desk)
        check(desk, change, rv)
        desk.proxy.once(None)
        if rv != CKR.OK:
            assert desk.run.raw.C_Logout(desk.session) == CKR.USER_NOT_LOGGED_IN, change
            assert login(desk) == CKR.OK, change
        assert sign(desk) == CKR.OK, change
        desk.run.logout(desk.session)
        desk.proxy.sweep()
    assert failures(desk) == [0, 0]
    assert desk.proxy.loaded() == 0
    assert swtpm.lockout_counter() == 0


def test_sign(desk, swtpm):
    assert login(desk) == CKR.OK
    changes = some_of(list(every_change(sizes_of(desk, sign))), SAMPLE)
    for change in changes:
        desk.run.logout(desk.session)
        desk.proxy.sweep()
        assert login(desk) == CKR.OK
        desk.proxy.once(change)
        check(desk, change, sign(desk))
        desk.proxy.once(None)
        assert sign(desk) == CKR.OK, change
    assert failures(desk) == [0, 0]
    assert swtpm.lockout_counter() == 0


def test_changes_of_a_pin(desk, swtpm):
    """The old PIN or the new one is the right one afterwards, and neither is counted."""
    run, old, new = desk.run, PIN, b"another PIN"

    def set_pin(desk) -> int:
        return run.raw.C_SetPIN(desk.session, old, len(old), new, len(new))

    sizes = sizes_of(desk, set_pin)
    old, new = new, old
    for change in some_of(list(every_change(sizes)), SAMPLE // 5 if SAMPLE < ALL else 1500):
        desk.proxy.once(change)
        rv = set_pin(desk)
        assert rv in REFUSALS | {CKR.OK}, (change, name(CKR, rv))
        desk.proxy.once(None)
        desk.proxy.sweep()
        right = new if rv == CKR.OK else old
        run.C_Login(desk.session, USER, right, len(right))
        run.logout(desk.session)
        if rv == CKR.OK:
            old, new = new, old
        desk.proxy.sweep()
    assert failures(desk) == [0, 0]
    assert swtpm.lockout_counter() == 0


@pytest.mark.parametrize("command", ["StartAuthSession", "Load"])
def test_a_wrong_pin_is_one_that_was_tried(desk, command):
    """Anybody can forge an error, but only the command that shows the TPM a PIN can find it wrong."""
    desk.proxy.answer = lambda request: error(TPM.AUTH_FAIL) if name_of(request) == command else None
    assert login(desk) in REFUSALS
    desk.proxy.answer = None
    assert failures(desk) == [0, 0]
    assert login(desk) == CKR.OK


def test_what_is_not_promised(desk, swtpm):
    """A whole forged 98E to Unseal cannot be told from the TPM's: it costs a try in the store, none in the TPM."""
    desk.proxy.answer = lambda request: error(TPM.AUTH_FAIL) if name_of(request) == "Unseal" else None
    assert login(desk) == CKR.PIN_INCORRECT
    desk.proxy.answer = None
    assert failures(desk) == [0, 1]
    assert swtpm.lockout_counter() == 0


def test_a_storage_root_key_that_is_protected_against_guessing(settings, swtpm, module_path):
    """It answers 98E to a session that somebody spoilt by one bit; no PIN was tried, and none is counted.

    No token is made below such a key any more, but older ones may be.
    """
    from fuzz.conftest import Cryptoki, Desk

    settings.setattr(template, "is_storage_key", lambda _public: True)
    attributes = "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    context = str(swtpm.directory / "srk.context")
    swtpm.tool("createprimary", "-C", "o", "-G", "ecc256", "-a", attributes, "-c", context)
    swtpm.tool("evictcontrol", "-C", "o", "-c", context, "0x81000001")
    swtpm.flush()
    with Tamperer(swtpm) as proxy:
        settings.setenv("P11TPM_TCTI", proxy.tcti)
        run = Cryptoki(module_path)
        run.initialize()
        try:
            desk = Desk(run, proxy)
            proxy.once(Change("StartAuthSession", "xor", 20, 1))
            assert login(desk) in REFUSALS
            assert proxy.commands[1].rc == TPM.AUTH_FAIL
            assert failures(desk) == [0, 0]
            assert login(desk) == CKR.OK
        finally:
            run.finalize()


def test_the_so_too(desk, swtpm):
    changes = some_of(list(every_change(sizes_of(desk, login))), SAMPLE // 5 if SAMPLE < ALL else 1000)
    desk.run.logout(desk.session)
    for change in changes:
        desk.proxy.once(change)
        rv = desk.run.raw.C_Login(desk.session, SO, SO_PIN, len(SO_PIN))
        check(desk, change, rv)
        desk.proxy.once(None)
        if rv != CKR.OK:
            desk.run.login(desk.session, SO, SO_PIN)
        desk.run.logout(desk.session)
        desk.proxy.sweep()
    assert failures(desk) == [0, 0]
    assert swtpm.lockout_counter() == 0
