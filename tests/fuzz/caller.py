"""A host that calls every function of the module with nonsense: a process of its own, since a crash is a result.

Arguments: the module, the first seed, the number of seeds (eight calls each), a file. The file has the call that is
under way and its seed, for whoever finds the process dead. A call begins as one that makes sense, and then none, some
or all of its arguments are replaced by random ones. All memory that is passed is really there, unless it is NULL; a
length is true or smaller, or it is one that nobody can mean: 1 GiB and more.
"""

# ruff: noqa: E402 - the folders of the tests are found first

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "api")]

from cryptoki import SO, USER, Cryptoki
from keys import TOKEN, ec_pair, public_key, rsa_pair, verify_ecdsa

from p11tpm.ck import CKA, CKM, CKO, CKR
from p11tpm.store import Store

PIN, SO_PIN = b"123456", b"so-secret"
ROOM = 1 << 16  # bytes of each buffer
MOST = 1024  # attributes of a template, as the module has it
HUGE = [(1 << 30) + 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 64) - 1]

KNOWN = {rv for name, rv in vars(CKR).items() if name.isupper()}
UNSUPPORTED = CKR.FUNCTION_NOT_SUPPORTED
# Not fuzzed: the run itself, and what ends in a shell of C
LEFT_OUT = {"C_Initialize", "C_Finalize", "C_GetFunctionList", "C_GetInterface", "C_GetInterfaceList"}
BY_SLOT = {
    "C_GetSlotInfo",
    "C_GetTokenInfo",
    "C_GetMechanismList",
    "C_GetMechanismInfo",
    "C_InitToken",
    "C_OpenSession",
}
BY_SLOT |= {"C_CloseAllSessions", "C_WaitForSlotEvent"}
BY_NOTHING = {"C_GetInfo", "C_GetSlotList"}
BY_KEY = {"C_SignInit": 2, "C_DestroyObject": 1, "C_GetAttributeValue": 1, "C_SetAttributeValue": 1}
NEEDS = {  # arguments that must not be NULL for CKR_OK
    "C_GetInfo": [0],
    "C_GetSlotList": [2],
    "C_GetSlotInfo": [1],
    "C_GetTokenInfo": [1],
    "C_GetMechanismList": [2],
    "C_GetMechanismInfo": [2],
    "C_InitToken": [1],
    "C_OpenSession": [4],
    "C_GetSessionInfo": [1],
    "C_CreateObject": [1, 3],
    "C_FindObjects": [1, 3],
    "C_Sign": [4],
    "C_SignFinal": [2],
    "C_GenerateKeyPair": [1, 2, 6, 7],
    "C_GenerateRandom": [1],
}


def numbers(cls: type) -> list[int]:
    return [number for name, number in vars(cls).items() if name.isupper() and isinstance(number, int)]


ATTRIBUTES, MECHANISMS, CLASSES = numbers(CKA), numbers(CKM), numbers(CKO)
ULONGS = [number.to_bytes(8, "little") for number in [0, 1, 2, 3, 4, 2048, 3072, *HUGE, *CLASSES]]
VALUES = [b"", b"\0", b"\1", b"\2", bytes.fromhex("06082a8648ce3d030107"), *ULONGS]
CALLS = 8  # per seed
MANY = 40  # objects
DATA = {CKA.CLASS: CKO.DATA.to_bytes(8, "little"), CKA.LABEL: b"data", CKA.VALUE: b"value"}
EC = {CKA.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107"), CKA.LABEL: b"pair"}
READABLE = [CKA.LABEL, CKA.ID, CKA.CLASS, CKA.SIGN, CKA.MODULUS, CKA.EC_POINT, CKA.PRIVATE_EXPONENT, CKA.UNIQUE_ID]


class Caller:
    """Calls functions, remembers what is open, and says what must not have been CKR_OK."""

    def __init__(self, run: Cryptoki, note: Path) -> None:
        self.run = run
        self.ffi = run.ffi
        self.note = os.open(note, os.O_WRONLY | os.O_CREAT, 0o600)
        self.slot = run.slots()[0]
        self.done = self.good = 0
        self.pin = PIN
        self.sessions: list[int] = []
        self.keys: list[int] = []
        self.kept: list = []  # memory that the call under way uses
        self.dice = random.Random(0)
        self._set_up()

    def _set_up(self) -> None:
        run = self.run
        run.init_token(self.slot, SO_PIN, "token")
        session = run.open(self.slot)
        run.login(session, SO, SO_PIN)
        run.init_pin(session, PIN)
        run.logout(session)
        run.close(session)
        self.make_usable()

    def make_usable(self) -> None:
        """Have two sessions, a login and keys again, whatever the last call legitimately ended."""
        run = self.run
        info = self.ffi.new("CK_SESSION_INFO *")
        if len(self.keys) > MANY:
            run.C_CloseAllSessions(self.slot)  # and with them the session objects
        self.sessions = [one for one in self.sessions if run.raw.C_GetSessionInfo(one, info) == CKR.OK]
        while len(self.sessions) < 2:
            self.sessions.append(run.open(self.slot))
        first = self.sessions[0]
        if run.raw.C_GetSessionInfo(first, info) or not info.flags & 2:
            self.sessions.insert(0, run.open(self.slot))
            first = self.sessions[0]
        store = Store(os.environ["P11TPM_STORE"])
        for role in ("SO", "USER"):
            if store.failures(self.slot, role)[0]:
                store.clear_failures(self.slot, role)
        store.close()
        rv = run.raw.C_Login(first, USER, self.pin, len(self.pin))
        assert rv in {CKR.OK, CKR.USER_ALREADY_LOGGED_IN}, f"no login any more: {rv:#x}"
        run.raw.C_FindObjectsFinal(first)
        private = {CKA.CLASS: CKO.PRIVATE_KEY.to_bytes(8, "little")}
        if len(run.find(first, private)) < 2:
            ec_pair(run, first)
            rsa_pair(run, first)
        self.keys = run.find(first, {})

    # -- arguments of any kind

    def length(self) -> int:
        """Return a length that a buffer has, or one that nobody can mean."""
        dice = self.dice
        return dice.choice([0, 1, dice.randrange(80), dice.randrange(ROOM), ROOM, dice.choice(HUGE)])

    def number(self) -> int:
        dice = self.dice
        there = [*self.sessions, self.slot, *self.keys]
        other = [dice.choice(MECHANISMS), dice.randrange(8), (1 << 64) - 1 - dice.randrange(9), dice.choice(HUGE)]
        return dice.choice([*there, *other, self.length()])

    def pointer(self, kind: str):
        if self.dice.random() < 0.2:
            return self.ffi.NULL
        if "CK_ATTRIBUTE" in kind:
            return self.template([self.entry() for _ in range(self.dice.randrange(6))])
        if "CK_MECHANISM *" in kind:
            length = self.length()
            return self.mechanism(self.dice.choice([*MECHANISMS, self.number()]), b"x", length)
        if kind == "unsigned long *":
            return self.ulongs(self.length())
        return self.ffi.cast(kind, self.memory(self.dice.randbytes(self.dice.randrange(64))))

    def memory(self, content: bytes = b""):
        memory = self.ffi.new("unsigned char[]", ROOM)
        self.ffi.memmove(memory, content, len(content))
        self.kept.append(memory)
        return memory

    def ulongs(self, first: int = 0):
        memory = self.ffi.new("CK_ULONG[]", ROOM // 8)
        memory[0] = first
        return memory

    def entry(self) -> tuple[int, bytes | None, int | None]:
        dice = self.dice
        type_ = dice.choice([*ATTRIBUTES, dice.randrange(1 << 64)])
        value = dice.choice([None, dice.randbytes(dice.randrange(40)), *VALUES])
        return type_, value, dice.choice([None, None, self.length()])

    def template(self, entries):
        array = self.ffi.new("CK_ATTRIBUTE[]", MOST)
        for entry, (type_, value, length) in zip(array, entries, strict=False):
            entry.type = type_
            if value is not None:
                entry.pValue = self.memory(value)
                entry.ulValueLen = len(value) if length is None else length
            elif length is not None:
                entry.ulValueLen = length
        return array

    def mechanism(self, type_: int, parameter: bytes = b"", length: int = 0):
        mechanism = self.ffi.new("CK_MECHANISM *")
        mechanism.mechanism = type_
        if parameter and length:
            mechanism.pParameter, mechanism.ulParameterLen = self.memory(parameter), length
        return mechanism

    # -- calls that make sense

    def sensible(self, function: str) -> list | None:
        """Return arguments that a host might mean; None for a function that there is no use for."""
        make = getattr(self, "_" + function[2:], None)
        if make:
            return make(self.dice.choice(self.sessions))
        return None

    def _pairs(self, attributes: dict[int, bytes]):
        return self.template([(type_, value, None) for type_, value in attributes.items()]), len(attributes)

    def _CreateObject(self, session: int) -> list:
        return [session, *self._pairs({**DATA, CKA.PRIVATE: self.dice.choice([b"\0", b"\1"])}), self.ulongs()]

    def _GenerateKeyPair(self, session: int) -> list:
        templates = [*self._pairs(EC), *self._pairs({CKA.LABEL: b"pair"})]
        return [session, self.mechanism(CKM.EC_KEY_PAIR_GEN), *templates, self.ulongs(), self.ulongs()]

    def _FindObjectsInit(self, session: int) -> list:
        return [session, *self._pairs(self.dice.choice([{}, {CKA.LABEL: b"key"}, DATA]))]

    def _FindObjects(self, session: int) -> list:
        return [session, self.ulongs(), self.dice.choice([0, 1, 3, 8192, *HUGE]), self.ulongs()]

    def _GetAttributeValue(self, session: int) -> list:
        wanted = self.dice.sample(READABLE, self.dice.randrange(1, 6))
        entries = [(type_, self.dice.choice([None, b""]), self.length()) for type_ in wanted]
        return [session, self.dice.choice(self.keys), self.template(entries), len(entries)]

    def _SetAttributeValue(self, session: int) -> list:
        return [session, self.dice.choice(self.keys), *self._pairs({CKA.LABEL: self.dice.randbytes(4)})]

    def _DestroyObject(self, session: int) -> list:
        return [session, self.dice.choice(self.keys)]

    def _SignInit(self, session: int) -> list:
        return [session, self.mechanism(self.dice.choice(MECHANISMS)), self.dice.choice(self.keys)]

    def _Sign(self, session: int) -> list:
        return [session, self.memory(b"x" * 32), self.dice.choice([0, 20, 32, 48, 64, 245, 256, ROOM]), *self._out()]

    def _SignUpdate(self, session: int) -> list:
        return [session, self.memory(b"x" * 32), self.dice.randrange(ROOM)]

    def _SignFinal(self, session: int) -> list:
        return [session, *self._out()]

    def _out(self) -> list:
        return [self.memory(), self.ulongs(self.dice.choice([0, 63, 64, 256, ROOM, *HUGE]))]

    def _GenerateRandom(self, session: int) -> list:
        return [session, self.memory(), self.dice.randrange(100)]

    def _Login(self, session: int) -> list:
        return [session, self.dice.choice([SO, USER, 2]), self.memory(self.pin), len(self.pin)]

    def _SetPIN(self, session: int) -> list:
        return [
            session,
            self.memory(self.pin),
            len(self.pin),
            self.memory(PIN),
            self.dice.choice([6, 6, 4, self.length()]),
        ]

    def _OpenSession(self, _session: int) -> list:
        return [self.slot, self.dice.choice([4, 6]), self.ffi.NULL, self.ffi.NULL, self.ulongs()]

    def _CloseSession(self, session: int) -> list:
        return [session]

    def _GetMechanismInfo(self, _session: int) -> list:
        return [self.slot, self.dice.choice(MECHANISMS), self.ffi.new("CK_MECHANISM_INFO *")]

    def _GetMechanismList(self, _session: int) -> list:
        return [self.slot, self.ulongs(), self.ulongs(self.length())]

    def arguments(self, function: str, kinds) -> list:
        self.kept = []
        values = self.sensible(function)
        spoilt = self.dice.choice([0, 0.1, 0.3])
        if values is None:
            values, spoilt = [None] * len(kinds), 1
        for position, kind in enumerate(kinds):
            if values[position] is None or self.dice.random() < spoilt:
                values[position] = self._any(function, position, kind)
        return values

    def _any(self, function: str, position: int, kind):
        if kind.kind == "function" or (function == "C_OpenSession" and position in {2, 3}):
            return self.ffi.NULL
        if kind.kind == "pointer":
            return self.pointer(kind.cname)
        if kind.cname != "unsigned long":
            return self.dice.randrange(256)
        if position or self.dice.random() < 0.3:
            return self.number()
        return self.slot if function in BY_SLOT else self.dice.choice(self.sessions)

    # -- calls

    def call(self, function: str, seed: str) -> None:
        self.dice = random.Random(f"{seed} {function}")
        exported = getattr(self.run.raw, function)
        values = self.arguments(function, self.ffi.typeof(exported).args)
        text = f"seed {seed}: {function}{values}"
        os.pwrite(self.note, text.encode()[:2000].ljust(2000), 0)
        before = list(self.sessions)
        rv = exported(*values)
        self.done += 1
        self.good += rv == CKR.OK
        assert rv in KNOWN, f"{text} = {rv:#x}"
        if rv == CKR.OK:
            why = self.nonsense(function, values, before)
            assert not why, f"{text} was CKR_OK: {why}"
        elif rv == CKR.GENERAL_ERROR:
            raise AssertionError(f"{text} was CKR_GENERAL_ERROR")

    def nonsense(self, function: str, values, sessions) -> str:
        """Return why a call cannot have worked; empty if it can."""
        if function in BY_SLOT and values[0] != self.slot:
            return "no such slot"
        if function not in BY_SLOT | BY_NOTHING and values[0] not in sessions:
            return "no such session"
        if function in BY_KEY and values[BY_KEY[function]] not in self.keys and function != "C_SignInit":
            return "no such object"
        if any(values[position] == self.ffi.NULL for position in NEEDS.get(function, ())):
            return "NULL"
        return self._false_value(function, values)

    def _false_value(self, function: str, values) -> str:
        if function == "C_SignInit" and values[1] != self.ffi.NULL and values[1].mechanism not in MECHANISMS:
            return "no such mechanism"
        if function in {"C_Login", "C_SetPIN"}:
            at = 2 if function == "C_Login" else 1
            if self.text(values, at) not in {self.pin, SO_PIN}:
                return "a wrong PIN"
            if function == "C_SetPIN":
                self.pin = self.text(values, 3)
        if function == "C_GenerateRandom" and values[2] > 16 and not any(self.ffi.buffer(values[1], values[2])):
            return "nothing is random"
        return ""

    def text(self, values, at: int) -> bytes:
        return bytes(self.ffi.buffer(values[at], values[at + 1])) if values[at + 1] <= ROOM else b""

    def check_usable(self) -> None:
        """Sign with a key of one's own, and find it again."""
        run, session = self.run, self.sessions[0]
        run.raw.C_SignInit(session, self.ffi.NULL, 0)  # ends what was begun
        public, private = self.reference()
        signature = run.sign(session, private, CKM.ECDSA_SHA256, b"still usable")
        verify_ecdsa(public_key(run, session, public), signature, b"still usable", "sha256")

    def reference(self) -> tuple[int, int]:
        """Return a key pair that no call has touched: it is made once, and its handles are not among `keys`."""
        name = b"reference"
        found = self.run.find(self.sessions[0], {**TOKEN, CKA.LABEL: name})
        if len(found) != 2:
            return ec_pair(self.run, self.sessions[0], label=name)
        return found[0], found[1]


def main(module: str, first: int, count: int, note: Path) -> None:
    run = Cryptoki(module)
    run.initialize()
    caller = Caller(run, note)
    functions = sorted(
        name[3:] for name in dir(sys.modules["_p11tpm"].lib) if name.startswith("py_C_") and name[3:] not in LEFT_OUT
    )
    built = [one for one in functions if hasattr(Caller, "_" + one[2:])]
    for seed in range(first, first + count):
        dice = random.Random(seed)
        for number in range(CALLS):
            caller.call(dice.choice([*built, *built, *functions]), f"{seed}.{number}")
            if number % 2:
                caller.make_usable()
        caller.check_usable()
    run.finalize()
    sys.stdout.write(f"{caller.done} {caller.good}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
