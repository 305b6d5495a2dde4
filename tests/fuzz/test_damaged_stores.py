"""A life with a store that was damaged, of which each answer is right or an error that says what to do.

Never a crash, another exception than Error, a private object with attributes that the token did not write, a signature
by another key, or a try of the TPM that is not counted in the store. All damages with P11TPM_FUZZ_ROUNDS=all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptoki import RW, SO, USER, Cryptoki
from keys import TOKEN, ec_pair, public_key, rsa_pair, verify_ecdsa, verify_pkcs1

import rig
from api.conftest import PIN, SO_PIN, settings
from fuzz import damage
from fuzz.effort import ALL, rounds
from fuzz.tamper import Tamperer, some_of
from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR, name
from p11tpm.core import pin
from p11tpm.core.token import Token
from p11tpm.host.config import Config
from p11tpm.store import Store
from p11tpm.store.database import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["settings"]

NOTE = b"a note that only its owner reads"
PRIVATE = {CKO.PRIVATE_KEY, CKO.SECRET_KEY, CKO.DATA}
TYPES = [CKA.LABEL, CKA.ID, CKA.PRIVATE, CKA.SENSITIVE, CKA.EXTRACTABLE, CKA.SIGN, CKA.DERIVE, CKA.ALWAYS_AUTHENTICATE]
TYPES += [CKA.KEY_TYPE, CKA.MODIFIABLE, CKA.DESTROYABLE, CKA.ALLOWED_MECHANISMS, CKA.TOKEN, CKA.APPLICATION]
OK_OR_HIDDEN = {CKR.OK, CKR.ATTRIBUTE_TYPE_INVALID, CKR.ATTRIBUTE_SENSITIVE}


class Desk:
    """Two tokens with keys of each kind; `truths` are the attributes that a private object had, by its identifier."""

    def __init__(self, run: Cryptoki, proxy: Tamperer, directory: Path) -> None:
        self.run, self.proxy, self.ffi = run, proxy, run.ffi
        self.store, self.pristine, self.log = directory / "store", directory / "pristine", directory / "log"
        self.older: list[bytes] = []
        self.truths: dict[bytes, list[dict[int, bytes]]] = {}
        self.publics: dict[bytes, object] = {}
        self.said: list[tuple[str, int]] = []

    def set_up(self) -> None:
        run = self.run
        slot = run.slots()[0]
        run.init_token(slot, SO_PIN, "token")
        self._keep()
        session = run.open(slot)
        run.login(session, SO, SO_PIN)
        run.init_pin(session, PIN)
        run.logout(session)
        run.login(session, USER, PIN)
        self._pair(session, *ec_pair(run, session, label=b"first"))
        self._learn(session)
        self._keep()
        self._pair(session, *ec_pair(run, session, id_=b"\3"))
        self._pair(session, *rsa_pair(run, session))
        data = {**TOKEN, CKA.CLASS: ulong(CKO.DATA), CKA.LABEL: b"note", CKA.VALUE: NOTE, CKA.PRIVATE: TRUE}
        run.create(session, data)
        run.create(session, {**data, CKA.LABEL: b"public", CKA.PRIVATE: FALSE})
        key = {**TOKEN, CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET), CKA.VALUE: NOTE}
        run.create(session, {**key, CKA.LABEL: b"software", CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE})
        run.create(session, {**key, CKA.LABEL: b"hmac", CKA.KEY_TYPE: ulong(CKK.SHA256_HMAC)})
        self._learn(session)
        self._keep()
        first = run.find(session, {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.LABEL: b"first"})[0]
        run.set(session, first, {CKA.DERIVE: TRUE})
        self._learn(session)
        run.set_pin(session, PIN, b"654321")
        run.set_pin(session, b"654321", PIN)
        self._keep()
        run.finalize()
        store = Store(str(self.store))
        Token.create(Config.load(), store, "other", SO_PIN, PIN)
        store.close()
        run.initialize()
        other = run.open(run.slots()[1])
        run.login(other, USER, PIN)
        self._pair(other, *ec_pair(run, other, label=b"of the other"))
        self._learn(other)
        run.finalize()
        damage.restore(self.store, self.pristine)

    def _pair(self, session: int, public: int, private: int) -> None:
        self.publics[self.run.get(session, private, CKA.UNIQUE_ID)] = public_key(self.run, session, public)

    def _keep(self) -> None:
        self.older.append((self.store / NAME).read_bytes())

    def _learn(self, session: int) -> None:
        for handle in self.run.find(session, {}):
            read = self._read(session, handle)
            if read.get(CKA.PRIVATE) == TRUE:
                self.truths.setdefault(self.run.get(session, handle, CKA.UNIQUE_ID), []).append(read)

    # -- a life

    def call(self, function: str, *args) -> int:
        """Call a function, and note what it answers."""
        rv = getattr(self.run.raw, function)(*args)
        self.said.append((function, rv))
        return rv

    def live(self) -> None:
        """Do what a host does, whatever is answered."""
        self.said.clear()
        try:
            self.run.initialize()
        except Exception as error:  # noqa: BLE001 - a return value, as each other one
            self.said.append(("C_Initialize", getattr(error, "rv", CKR.OK)))
            return
        try:
            for slot in self._slots():
                self._use(slot)
        finally:
            self.run.finalize()

    def _slots(self) -> list[int]:
        count, slots = self.ffi.new("CK_ULONG *", 8), self.ffi.new("CK_ULONG[]", 8)
        return list(slots)[: count[0]] if self.call("C_GetSlotList", 1, slots, count) == CKR.OK else []

    def _use(self, slot: int) -> None:
        self.call("C_GetTokenInfo", slot, self.ffi.new("CK_TOKEN_INFO *"))
        session = self.run.ulong()
        if self.call("C_OpenSession", slot, RW, self.ffi.NULL, self.ffi.NULL, session) != CKR.OK:
            return
        for handle in self._find(session[0]):
            self._read(session[0], handle)
        if self.call("C_Login", session[0], USER, PIN, len(PIN)) == CKR.OK:
            for handle in self._find(session[0]):
                self._try(session[0], handle)
            self._write(session[0])
            self.call("C_Logout", session[0])

    def _find(self, session: int) -> list[int]:
        handles, count = self.ffi.new("CK_ULONG[]", 100), self.run.ulong()
        if self.call("C_FindObjectsInit", session, *self.run.template({})) != CKR.OK:
            return []
        found = self.call("C_FindObjects", session, handles, 100, count) == CKR.OK
        self.call("C_FindObjectsFinal", session)
        return list(handles)[: count[0]] if found else []

    def _read(self, session: int, handle: int, types: list[int] = TYPES) -> dict[int, bytes]:
        """Return the attributes that can be read."""
        array, count = self.run.template([(type_, bytes(2048)) for type_ in types])
        self.call("C_GetAttributeValue", session, handle, array, count)
        read = {}
        for entry in array:
            if entry.ulValueLen <= 2048:
                read[entry.type] = bytes(self.ffi.buffer(entry.pValue, entry.ulValueLen))
        return read if self.said[-1][1] in OK_OR_HIDDEN else {}

    def _try(self, session: int, handle: int) -> None:
        """Read and use one object: what is private is what the token has written, or is not there."""
        read, kind = self._read(session, handle), self._read(session, handle, [CKA.CLASS, CKA.UNIQUE_ID])
        class_ = int.from_bytes(kind.get(CKA.CLASS, b"\xff"), "little")
        unique = kind.get(CKA.UNIQUE_ID, b"")
        if read.get(CKA.PRIVATE) == TRUE or class_ in {CKO.PRIVATE_KEY, CKO.SECRET_KEY}:
            assert read in self.truths.get(unique, []), (unique, read)
            assert self._read(session, handle, [CKA.VALUE]).get(CKA.VALUE, NOTE) == NOTE
        if class_ == CKO.PRIVATE_KEY:
            self._sign(session, handle, unique, read)
        if class_ == CKO.SECRET_KEY and read[CKA.LABEL] == b"hmac":
            self.call("C_SignInit", session, self.run.mechanism(CKM.SHA256_HMAC), handle)
            self.call("C_Sign", session, b"text", 4, self.ffi.new("CK_BYTE[]", 32), self.ffi.new("CK_ULONG *", 32))

    def _sign(self, session: int, handle: int, unique: bytes, read: dict[int, bytes]) -> None:
        is_rsa = read[CKA.KEY_TYPE] == ulong(CKK.RSA)
        mechanism = self.run.mechanism(CKM.SHA256_RSA_PKCS if is_rsa else CKM.ECDSA_SHA256)
        out, length = self.ffi.new("CK_BYTE[]", 512), self.ffi.new("CK_ULONG *", 512)
        if self.call("C_SignInit", session, mechanism, handle) != CKR.OK:
            return
        if self.call("C_Sign", session, b"text", 4, out, length) == CKR.OK:
            verify = verify_pkcs1 if is_rsa else verify_ecdsa
            verify(self.publics[unique], bytes(self.ffi.buffer(out, length[0])), b"text", "sha256")

    def _write(self, session: int) -> None:
        """Change, make and destroy an object."""
        handle = self.run.ulong()
        data = {**TOKEN, CKA.CLASS: ulong(CKO.DATA), CKA.LABEL: b"new", CKA.VALUE: NOTE, CKA.PRIVATE: TRUE}
        if self.call("C_CreateObject", session, *self.run.template(data), handle) != CKR.OK:
            return
        if self.call("C_SetAttributeValue", session, handle[0], *self.run.template({CKA.LABEL: b"newer"})) == CKR.OK:
            assert self._read(session, handle[0], [CKA.LABEL, CKA.VALUE]) == {CKA.LABEL: b"newer", CKA.VALUE: NOTE}
        self.call("C_DestroyObject", session, handle[0])

    # -- what became of it

    def check(self) -> None:
        """Refuse a return value that a host cannot use, and a log that does not say why."""
        log = self.log.read_text() if self.log.exists() else ""
        assert 'File "' not in log, f"another exception than Error:\n{log}"
        for function, rv in self.said:
            if rv in {CKR.DEVICE_ERROR, CKR.GENERAL_ERROR, CKR.FUNCTION_FAILED, CKR.DEVICE_MEMORY}:
                assert f"{function}: {name(CKR, rv)}: " in log, (function, name(CKR, rv))
        for line in filter(lambda line: "CKR_GENERAL_ERROR" in line, log.splitlines()):
            assert "remove it" in line or "others may" in line or "not used" in line, line


@pytest.fixture(scope="module")
def desk(tmp_path_factory, module_path) -> Iterator[Desk]:
    directory = tmp_path_factory.mktemp("damage")
    config = rig.write_secret(directory / "p11tpm.conf", f"log = {directory}/log\ntoken = *\n")
    with pytest.MonkeyPatch.context() as settings, rig.Swtpm(max_tries=32) as swtpm, Tamperer(swtpm) as proxy:
        settings.setenv("P11TPM_CONF", str(config))
        settings.setenv("P11TPM_STORE", str(directory / "store"))
        settings.setenv("P11TPM_TCTI", proxy.tcti)
        run = Cryptoki(module_path)
        run.initialize()
        desk = Desk(run, proxy, directory)
        desk.set_up()
        yield desk
        run.finalize()


def lives(desk: Desk, what: str, change) -> None:
    damage.restore(desk.pristine, desk.store)
    desk.log.unlink(missing_ok=True)
    pin._failed.clear()  # noqa: SLF001 - as a new process, which has tried no PIN
    change(desk.store)
    try:
        desk.live()
        desk.check()
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error


def test_a_life_is_a_good_one_without_damage(desk):
    lives(desk, "nothing", lambda _store: None)
    assert {rv for _, rv in desk.said} == OK_OR_HIDDEN
    assert [function for function, _ in desk.said].count("C_Sign") == 5


@pytest.mark.parametrize("kind", damage.KINDS)
def test_no_damage_does_any_harm(desk, kind):
    changes = list(damage.KINDS[kind](desk.pristine, desk.older))
    for what, change in some_of(changes, rounds(len(changes) // 2, ALL)):
        lives(desk, what, change)
        assert desk.proxy.bare.guesses() <= 2, f"{what}: a PIN was tried more than once on each of the two tokens"
        desk.proxy.bare.forget_guesses()
    assert desk.proxy.loaded() == 0


def test_no_trigger_runs_and_no_view_is_a_table(desk):
    for what, change in damage.triggers():
        files: list[bytes] = []

        def trap(store, change=change, files=files):
            change(store)
            files.append((store / NAME).read_bytes())

        lives(desk, what, trap)
        assert ("C_GetSlotList", CKR.DEVICE_ERROR) in desk.said, what
        assert (desk.store / NAME).read_bytes() == files[0], what
