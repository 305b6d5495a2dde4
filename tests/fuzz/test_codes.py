"""Every code that a TPM, a resource manager or tpm2-tss may answer, to each command of a life: once, and always.

Never CKR_OK for a failure, a wrong PIN only where the TPM has said so of the object that a PIN opens, and the codes of
the table below; no wait without end; nothing left in the TPM; and the next call works. Malformed responses
end in the same way. All codes for all commands of all calls with P11TPM_FUZZ_ROUNDS=all.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptoki import SO, USER, Rv
from keys import TOKEN, public_key, rsa_pair
from parameters import ecdh

from api.conftest import PIN, SO_PIN
from fuzz.effort import ALL, rounds
from fuzz.tamper import error, name_of, resized
from p11tpm.attribute import ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR, name
from p11tpm.core import pin
from p11tpm.core.token import Token
from p11tpm.error import Error
from p11tpm.host.config import Config
from p11tpm.store import Store
from p11tpm.tpm import retry, wire
from p11tpm.tpm.provision import SRK_HANDLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fuzz.conftest import Desk

BUSY = {0x908, 0x90A, 0x920, 0x922, 0x923}
FULL = {0x901, 0x902, 0x903, 0x904, 0x905}
GONE = set(range(0x910, 0x91F))
AUTH_FAIL, LOCKOUT, HANDLE_1 = 0x98E, 0x921, 0x18B
TABLE = {
    **dict.fromkeys((AUTH_FAIL, LOCKOUT, 0x9A2, 0x1DF, 0x128, 0x12F, 0x100, 0x101, *BUSY, *GONE), CKR.DEVICE_ERROR),
    **dict.fromkeys((0x14B, *FULL), CKR.DEVICE_MEMORY),
    HANDLE_1: CKR.TOKEN_NOT_RECOGNIZED,
}
WARNINGS = [*range(0x901, 0x909), 0x90A, *range(0x910, 0x917), *range(0x918, 0x924), 0x97F]
FORMAT_0 = [0x100, 0x101, 0x103, 0x10B, 0x119, 0x120, *range(0x121, 0x132), *range(0x142, 0x156), 0x17F, 0x500]
FORMAT_1 = [0x81, 0x84, 0x8B, 0x8E, 0x95, 0xA2, 0x184, 0x18B, 0x18E, 0x1A2, 0x28B, 0x98E, 0x98F, 0x988, 0x992, 0x99D]
FORMAT_1 += [0x9A2, 0x9A3, 0x9A4, 0xA8E, 0xAA2, 0x1C4, 0x1CA, 0x1D5, 0x1DF, 0x1E4, 0x2C4, 0x2D5, 0x2DF, 0x3C4, 0x4C4]
OTHERS = [
    0xB0902,
    0xB0922,
    0xB098E,
    0xC098E,
    0xB0184,
    0xB0001,
    0x10098E,
    0x6000A,
    0x7000B,
    0x8000A,
    0xA000A,
    0xFFFFFFFF,
]
CODES = [*WARNINGS, *FORMAT_0, *FORMAT_1, *OTHERS, 0x80000000, 0x7FFFFFFF, 0x1000, 0x1E, 0x0001]
FEW = [AUTH_FAIL, LOCKOUT, 0x9A2, 0x1DF, 0x902, 0x903, 0x910, 0x918, 0x922, 0x101, 0x18B, 0xB098E, 0xFFFFFFFF]
MALFORMED = {  # made of a right response
    "nothing but a header": lambda response: resized(response[:6] + bytes(4)),
    "of the other kind": lambda response: (b"\x80\x01" if response[1] == 2 else b"\x80\x02") + response[2:],
    "of no kind": lambda response: b"\0\xc4" + response[2:],
    "cut": lambda response: resized(response[: len(response) * 2 // 3]),
    "with more behind": lambda response: resized(response + bytes(16)),
    "as long as there is room": lambda response: resized(response.ljust(4096, b"\xff")),
    "of ones": lambda response: resized(response[:10] + b"\xff" * (len(response) - 10)),
    "of zeros": lambda response: resized(response[:10] + bytes(len(response) - 10)),
    "that says to be longer": lambda response: response[:2] + (len(response) + 1).to_bytes(4, "big") + response[6:],
    "that says to be shorter": lambda response: response[:2] + (len(response) - 1).to_bytes(4, "big") + response[6:],
    "that says to be too long": lambda response: response[:2] + b"\xff\xff\xff\xff" + response[6:],
    "that says to be nothing": lambda response: response[:2] + bytes(4) + response[6:],
}


def plain(code: int) -> int:
    """Return the TPM's own code for one that a resource manager passed on in its layer."""
    return code & 0xFFFF if code >> 16 in {11, 12} and code & 0xF80 else code


class Life:
    """Calls of a host, each with what has to be there before; `scratch` is a store for new tokens."""

    def __init__(self, desk: Desk, scratch: Path) -> None:
        self.desk, self.run, self.scratch = desk, desk.run, scratch
        self.session = desk.session
        self.as_(USER)
        rsa_pair(self.run, self.session)
        value = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.VALUE: bytes(range(32)), **TOKEN}
        self.run.create(self.session, {**value, CKA.LABEL: b"aes", CKA.KEY_TYPE: ulong(CKK.AES)})
        self.run.create(self.session, {**value, CKA.LABEL: b"hmac", CKA.KEY_TYPE: ulong(CKK.SHA256_HMAC)})
        self.public = public_key(self.run, self.session, self._find(b"rsa", CKO.PUBLIC_KEY))
        self.other = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
        self.pins = [PIN, b"654321"]

    def as_(self, user: int | None) -> None:
        """Log in, or out."""
        with_pin = {USER: getattr(self, "pins", [PIN])[0], SO: SO_PIN}
        self.run.raw.C_Logout(self.session)
        if user is not None:
            self.run.login(self.session, user, with_pin[user])

    def _find(self, label: bytes, class_: int) -> int:
        return self.run.find(self.session, {CKA.LABEL: label, CKA.CLASS: ulong(class_)})[0]

    def login(self) -> None:
        self.run.login(self.session, USER, self.pins[0])

    def login_so(self) -> None:
        self.run.login(self.session, SO, SO_PIN)

    def logout(self) -> None:
        self.run.logout(self.session)

    def sign(self) -> None:
        signature = self.run.sign(self.session, self.desk.key, CKM.ECDSA, bytes(range(32)))
        assert any(signature)

    def decrypt(self) -> None:
        sent = self.public.encrypt(b"secret", padding.PKCS1v15())
        key = self._find(b"rsa", CKO.PRIVATE_KEY)
        assert self.run.crypt("Decrypt", self.session, key, CKM.RSA_PKCS, sent) == b"secret"

    def derive(self) -> None:
        point = b"\4" + self.other.x.to_bytes(32, "big") + self.other.y.to_bytes(32, "big")
        kind = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET), CKA.VALUE_LEN: ulong(32)}
        self.run.derive(self.session, self.desk.key, CKM.ECDH1_DERIVE, kind, ecdh(point))

    def unwrap(self) -> None:
        kind = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.AES), **TOKEN}
        wrapped = self.public.encrypt(bytes(range(32)), padding.PKCS1v15())
        key = self.run.unwrap(self.session, self._find(b"rsa", CKO.PRIVATE_KEY), CKM.RSA_PKCS, wrapped, kind)
        self.run.C_DestroyObject(self.session, key)

    def encrypt(self) -> None:
        self.run.crypt("Encrypt", self.session, self._find(b"aes", CKO.SECRET_KEY), CKM.AES_ECB, bytes(32))

    def mac(self) -> None:
        key = self._find(b"hmac", CKO.SECRET_KEY)
        assert len(self.run.sign(self.session, key, CKM.SHA256_HMAC, b"text")) == 32

    def long_mac(self) -> None:
        key = self._find(b"hmac", CKO.SECRET_KEY)
        assert len(self.run.sign(self.session, key, CKM.SHA256_HMAC, bytes(3000))) == 32

    def random(self) -> None:
        self.run.random(self.session, 16)

    def seed(self) -> None:
        self.run.C_SeedRandom(self.session, b"seed", 4)

    def generate(self) -> None:
        named = {**TOKEN, CKA.LABEL: b"generated"}
        curve = {**named, CKA.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}
        for handle in self.run.generate_pair(self.session, CKM.EC_KEY_PAIR_GEN, curve, named):
            self.run.C_DestroyObject(self.session, handle)

    def import_key(self) -> None:
        scalar = {CKA.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107"), CKA.VALUE: bytes(31) + b"\5"}
        kind = {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(CKK.EC), **TOKEN}
        self.run.C_DestroyObject(self.session, self.run.create(self.session, {**kind, **scalar}))

    def copy(self) -> None:
        handle = self.run.ulong()
        self.run.C_CopyObject(self.session, self.desk.key, *self.run.template({CKA.LABEL: b"copy"}), handle)
        self.run.C_DestroyObject(self.session, handle[0])

    def set_pin(self) -> None:
        self.run.set_pin(self.session, *self.pins)
        self.pins.reverse()

    def init_pin(self) -> None:
        self.run.init_pin(self.session, self.pins[0])

    def create(self) -> None:
        """Make a token in a store of its own: this is what C_InitToken does in an empty slot."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        store = Store(str(self.scratch))
        try:
            Token.initialize(Config.load(), store, "new", SO_PIN)
        except Error as failure:
            raise Rv(failure.rv) from None
        finally:
            store.close()

    def create_first(self) -> None:
        if SRK_HANDLE in self.desk.proxy.bare.handles("persistent"):
            self.desk.proxy.bare.evict(SRK_HANDLE)
        self.create()


CALLS: dict[str, tuple[int | None, Callable[[Life], None]]] = {  # the role that is logged in before, and the call
    "C_Login": (None, Life.login),
    "C_Login of the SO": (None, Life.login_so),
    "C_Sign": (USER, Life.sign),
    "C_Decrypt": (USER, Life.decrypt),
    "C_DeriveKey": (USER, Life.derive),
    "C_UnwrapKey": (USER, Life.unwrap),
    "C_Encrypt": (USER, Life.encrypt),
    "C_Sign HMAC": (USER, Life.mac),
    "C_Sign HMAC of much": (USER, Life.long_mac),
    "C_GenerateRandom": (USER, Life.random),
    "C_SeedRandom": (USER, Life.seed),
    "C_GenerateKeyPair": (USER, Life.generate),
    "C_CreateObject": (USER, Life.import_key),
    "C_CopyObject": (USER, Life.copy),
    "C_SetPIN": (USER, Life.set_pin),
    "C_InitPIN": (SO, Life.init_pin),
    "C_InitToken": (None, Life.create),
    "C_InitToken on a TPM without a key": (None, Life.create_first),
    "C_Logout": (USER, Life.logout),
}
TRIES = {"C_Login", "C_Login of the SO", "C_SetPIN", "C_InitPIN"}
UNPROTECTED = {  # whose responses no HMAC covers: questions before there is a key, and what has no result
    *("FlushContext", "StirRandom", "EvictControl", "TestParms", "ReadPublic", "GetCapability", "CreatePrimary"),
    *("PolicyAuthValue", "PolicyCommandCode", "PolicyOR"),
}
GUESSES = {"Unseal", "ObjectChangeAuth", "PolicySecret"}
MAKERS = {"StartAuthSession", "Load", "FlushContext"}  # what a later call does without
FIRST_WITH = {  # the call in which a command gets all codes; elsewhere it gets a few
    **dict.fromkeys(("StartAuthSession", "Load", "Unseal", "FlushContext"), "C_Login"),
    "Sign": "C_Sign",
    "RSA_Decrypt": "C_Decrypt",
    "ECDH_ZGen": "C_DeriveKey",
    "EncryptDecrypt2": "C_Encrypt",
    "HMAC": "C_Sign HMAC",
    "GetRandom": "C_GenerateRandom",
    "StirRandom": "C_SeedRandom",
    "Import": "C_CreateObject",
    **dict.fromkeys(("HMAC_Start", "SequenceUpdate", "SequenceComplete"), "C_Sign HMAC of much"),
    "Create": "C_GenerateKeyPair",
    "PolicySecret": "C_InitPIN",
    **dict.fromkeys(("ObjectChangeAuth", "PolicyAuthValue", "PolicyCommandCode", "PolicyOR"), "C_SetPIN"),
    **dict.fromkeys(("ReadPublic", "TestParms", "GetCapability"), "C_InitToken"),
    **dict.fromkeys(("CreatePrimary", "EvictControl"), "C_InitToken on a TPM without a key"),
}


def expected(call: str, command: str, code: int) -> int:
    """Return the return value of a call that ends with a code, as the table says."""
    if call in TRIES - {"C_InitPIN"} and command in GUESSES and plain(code) == AUTH_FAIL:
        return CKR.PIN_INCORRECT  # C_InitPIN is given no PIN that could be wrong
    if call in TRIES and plain(code) == LOCKOUT:
        return CKR.PIN_LOCKED
    if call == "C_CreateObject" and command == "Import" and code & 0xFC0 in {0x2C0, 0x3C0} and code & 0x3F != 0x1F:
        return CKR.ATTRIBUTE_VALUE_INVALID
    return TABLE.get(plain(code), CKR.FUNCTION_FAILED)


def forgiven(call: str, command: str, code: int) -> bool:
    """Return whether a call does without a command that ends with a code."""
    if command == "FlushContext":
        return True
    if command == "TestParms":
        return bool(code & 0x80)
    in_init = call.startswith("C_InitToken")
    return in_init and (command == "EvictControl" or (command, plain(code)) == ("ReadPublic", HANDLE_1))


@pytest.fixture
def life(desk, tmp_path, monkeypatch) -> Life:
    monkeypatch.setattr(wire, "sleep", lambda _seconds: None)
    monkeypatch.setattr(retry, "sleep", lambda _seconds: None)
    return Life(desk, tmp_path / "scratch")


def outcome(life: Life, call: str) -> int:
    try:
        CALLS[call][1](life)
    except Rv as failure:
        return failure.rv
    return CKR.OK


def usual(life: Life, call: str) -> list[str]:
    """Return the commands of a call, in order."""
    life.as_(CALLS[call][0])
    life.desk.proxy.clear()
    assert outcome(life, call) == CKR.OK
    return life.desk.proxy.names


@pytest.mark.parametrize("call", CALLS)
def test_each_code_for_each_command(life, call):
    commands = usual(life, call)
    proxy, wrong, cases = life.desk.proxy, [], 0
    only = {"CreatePrimary", "EvictControl"} if CALLS[call][1] is Life.create_first else set(commands)
    for command in dict.fromkeys(one for one in commands if one in only):  # the others are those of C_InitToken
        codes = CODES if FIRST_WITH[command] == call else FEW
        for code in codes if rounds(0, ALL) < ALL else CODES:
            for times in (1,) if CALLS[call][0] is None and code not in FEW else (1, 1000):
                wrong += judged(life, call, commands, command, code, times)
                cases += 1
        life.as_(None)
        assert proxy.bare.loaded() == [], command
    print(f"{call}: {cases} cases")  # noqa: T201 - for whoever asks for it with -rP
    assert wrong == [], wrong
    assert proxy.bare.guesses() == 0


def judged(life: Life, call: str, commands: list[str], command: str, code: int, times: int) -> list[str]:
    """Have a command refused, and say what is wrong with what comes of it and of the next call."""
    desk, left = life.desk, [times]
    before(life, call, anew=command in MAKERS)

    def answer(request: bytes) -> bytes | None:
        if left[0] and name_of(request) == command:
            left[0] -= 1
            return error(code)
        return None

    desk.proxy.answer = answer
    rv = outcome(life, call)
    desk.proxy.answer = None
    assert left[0] < times, f"{command} is not asked for in {call}"
    asked_again = desk.proxy.names.count(command) > commands.count(command) and times == 1
    right = expected(call, command, code)
    what = f"{command} {code:#x} x {times}: {name(CKR, rv)}"
    wrong = []
    if rv == CKR.OK and not (asked_again or forgiven(call, command, code)):
        wrong.append(f"{what}: not a failure")
    full = CKR.DEVICE_MEMORY if command == "FlushContext" else right  # what cannot be flushed fills the TPM
    if rv not in {CKR.OK, right, full}:
        wrong.append(f"{what}, not {name(CKR, right)}")
    if len(desk.proxy.names) > 400:
        wrong.append(f"{what} after {len(desk.proxy.names)} commands")
    if command == "FlushContext":
        desk.proxy.sweep()
    pin._failed.clear()  # noqa: SLF001 - as a new process, which has tried no PIN
    before(life, call)
    if (again := outcome(life, call)) != CKR.OK:
        wrong.append(f"{what}, and then {name(CKR, again)}")
    return wrong


def before(life: Life, call: str, *, anew: bool = False) -> None:
    """Have the login of a call again, if the last one has changed it, or if nothing of it is to be in the TPM."""
    user = CALLS[call][0]
    if anew or {None: 2, USER: 3, SO: 4}[user] != life.run.state(life.session):
        life.as_(user)
    life.desk.proxy.clear()


class Malformed:
    """A change of the first response to a command: see `Tamperer.once`."""

    def __init__(self, command: str, what: str) -> None:
        self.command = command
        self._what = what

    def __call__(self, response: bytes) -> bytes:
        return MALFORMED[self._what](response)


@pytest.mark.parametrize("call", CALLS)
def test_no_response_for_each_command(life, call):
    commands = usual(life, call)
    proxy, wrong = life.desk.proxy, []
    for command in dict.fromkeys(commands):
        for what in MALFORMED:
            before(life, call, anew=command in MAKERS)
            proxy.once(Malformed(command, what))
            rv = outcome(life, call)
            asked_again = proxy.names.count(command) > commands.count(command)
            if rv == CKR.OK and proxy.applied and not (asked_again or command in UNPROTECTED):
                wrong.append(f"{command} {what}: CKR_OK")
            if rv not in {CKR.OK, CKR.DEVICE_ERROR, CKR.DEVICE_REMOVED, CKR.FUNCTION_FAILED}:
                wrong.append(f"{command} {what}: {name(CKR, rv)}")
            proxy.once(None)
            proxy.sweep()
            if command in {"CreatePrimary", "HMAC_Start"}:  # nobody flushes what has a handle that was not heard
                for handle in proxy.bare.loaded():
                    proxy.bare.flush(handle)
            before(life, call)
            if (rv := outcome(life, call)) != CKR.OK:
                wrong.append(f"{command} {what}: and then {name(CKR, rv)}")
    assert wrong == [], wrong
    assert proxy.bare.guesses() == 0
