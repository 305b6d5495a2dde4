"""PKCS#11 as a Python host sees it: the function list of the real module, called with real C memory."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

from p11tpm.ck import CKF, CKR, CKU, name

if TYPE_CHECKING:
    from collections.abc import Iterable

SO, USER = CKU.SO, CKU.USER
RW = CKF.SERIAL_SESSION | CKF.RW_SESSION
RO = CKF.SERIAL_SESSION


class Rv(Exception):  # noqa: N818
    """A return value other than CKR_OK."""

    def __init__(self, rv: int, function: str = "") -> None:
        super().__init__(f"{function}: {name(CKR, rv)}")
        self.rv = rv

    def __eq__(self, other: object) -> bool:
        return self.rv == (other.rv if isinstance(other, Rv) else other)

    def __hash__(self) -> int:
        return self.rv


class Raw:
    """The exported C functions, with the argument types that the module's own declarations give them."""

    def __init__(self, library: ctypes.CDLL, abi) -> None:
        self._library = library
        self._abi = abi

    def __getattr__(self, function: str):
        address = ctypes.cast(getattr(self._library, function), ctypes.c_void_p).value
        exported = self._abi.ffi.cast(self._abi.ffi.typeof(getattr(self._abi.lib, f"py_{function}")), address)
        setattr(self, function, exported)
        return exported


class Cryptoki:
    """The module's functions by name (`run.raw.C_Sign(...)` for every detail), and short forms for the usual ones."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def initialize(self, arguments: int | None = None) -> None:
        """Start a run; the module's own cffi types are there from then on."""
        self._library.C_Initialize.restype = ctypes.c_ulong
        self._check("C_Initialize", self._library.C_Initialize(ctypes.c_void_p(arguments)))
        self.ffi = sys.modules["_p11tpm"].ffi
        self.raw = Raw(self._library, sys.modules["_p11tpm"])

    def finalize(self) -> None:
        self._library.C_Finalize.restype = ctypes.c_ulong
        if self._library.C_Finalize(None) not in {CKR.OK, CKR.CRYPTOKI_NOT_INITIALIZED}:
            raise AssertionError("C_Finalize failed")

    @staticmethod
    def _check(function: str, rv: int) -> None:
        if rv != CKR.OK:
            raise Rv(rv, function)

    def __getattr__(self, function: str):
        """`run.C_Sign(...)`: as in C, but anything except CKR_OK is raised."""
        if not function.startswith("C_"):
            raise AttributeError(function)
        return lambda *args: self._check(function, getattr(self.raw, function)(*args))

    # -- C memory

    def mechanism(self, type_: int, parameter: bytes = b""):
        mechanism = self.ffi.new("CK_MECHANISM *")
        self._keep = self.ffi.from_buffer(parameter) if parameter else self.ffi.NULL
        mechanism.mechanism, mechanism.ulParameterLen = type_, len(parameter)
        mechanism.pParameter = self.ffi.cast("void *", self._keep)
        return mechanism

    def template(self, attributes: dict[int, bytes] | Iterable[tuple[int, bytes]]):
        pairs = list(attributes.items() if isinstance(attributes, dict) else attributes)
        array = self.ffi.new("CK_ATTRIBUTE[]", max(1, len(pairs)))
        values = [self.ffi.new("CK_BYTE[]", value or b"\0") for _, value in pairs]
        for entry, (type_, value), memory in zip(array, pairs, values, strict=False):
            entry.type, entry.pValue, entry.ulValueLen = type_, memory, len(value)
        self._values = values
        return array, len(pairs)

    def ulong(self):
        return self.ffi.new("CK_ULONG *")

    def bytes_of(self, call) -> bytes:
        """Make a call twice, for the length and for the bytes."""
        length = self.ulong()
        call(self.ffi.NULL, length)
        out = self.ffi.new("CK_BYTE[]", length[0])
        call(out, length)
        return bytes(self.ffi.buffer(out, length[0]))

    # -- short forms

    def slots(self) -> list[int]:
        count = self.ulong()
        self.C_GetSlotList(1, self.ffi.NULL, count)
        slots = self.ffi.new("CK_ULONG[]", count[0])
        self.C_GetSlotList(1, slots, count)
        return list(slots)

    def token_info(self, slot: int):
        info = self.ffi.new("CK_TOKEN_INFO *")
        self.C_GetTokenInfo(slot, info)
        return info

    def init_token(self, slot: int, pin: bytes, label: str) -> None:
        self.C_InitToken(slot, pin, len(pin), label.encode().ljust(32))

    def init_pin(self, session: int, pin: bytes) -> None:
        self.C_InitPIN(session, pin, len(pin))

    def set_pin(self, session: int, old: bytes, new: bytes) -> None:
        self.C_SetPIN(session, old, len(old), new, len(new))

    def open(self, slot: int, flags: int = RW) -> int:
        handle = self.ulong()
        self.C_OpenSession(slot, flags, self.ffi.NULL, self.ffi.NULL, handle)
        return handle[0]

    def close(self, session: int) -> None:
        self.C_CloseSession(session)

    def login(self, session: int, user: int, pin: bytes) -> None:
        self.C_Login(session, user, pin, len(pin))

    def logout(self, session: int) -> None:
        self.C_Logout(session)

    def state(self, session: int) -> int:
        info = self.ffi.new("CK_SESSION_INFO *")
        self.C_GetSessionInfo(session, info)
        return info.state

    def create(self, session: int, attributes) -> int:
        handle = self.ulong()
        self.C_CreateObject(session, *self.template(attributes), handle)
        return handle[0]

    def generate_pair(self, session: int, mechanism: int, public, private) -> tuple[int, int]:
        handles = self.ulong(), self.ulong()
        public_template, public_values = self.template(public), self._values
        private_template = self.template(private)
        self.C_GenerateKeyPair(session, self.mechanism(mechanism), *public_template, *private_template, *handles)
        del public_values
        return handles[0][0], handles[1][0]

    def find(self, session: int, attributes) -> list[int]:
        self.C_FindObjectsInit(session, *self.template(attributes))
        found, count, out = [], self.ulong(), self.ffi.new("CK_ULONG[]", 3)
        while True:
            self.C_FindObjects(session, out, 3, count)
            if not count[0]:
                break
            found += list(out)[: count[0]]
        self.C_FindObjectsFinal(session)
        return found

    def get(self, session: int, handle: int, type_: int) -> bytes:
        array, _ = self.template({type_: b""})
        array[0].pValue = self.ffi.NULL
        self.C_GetAttributeValue(session, handle, array, 1)
        out = self.ffi.new("CK_BYTE[]", max(1, array[0].ulValueLen))
        array[0].pValue = out
        self.C_GetAttributeValue(session, handle, array, 1)
        return bytes(self.ffi.buffer(out, array[0].ulValueLen))

    def set(self, session: int, handle: int, attributes) -> None:
        self.C_SetAttributeValue(session, handle, *self.template(attributes))

    def sign(self, session: int, key: int, mechanism: int, data: bytes, parameter: bytes = b"") -> bytes:
        self.C_SignInit(session, self.mechanism(mechanism, parameter), key)
        return self.bytes_of(lambda out, length: self.C_Sign(session, data, len(data), out, length))

    def sign_parts(self, session: int, key: int, mechanism: int, parts, parameter: bytes = b"") -> bytes:
        self.C_SignInit(session, self.mechanism(mechanism, parameter), key)
        for part in parts:
            self.C_SignUpdate(session, part, len(part))
        return self.bytes_of(lambda out, length: self.C_SignFinal(session, out, length))

    def random(self, session: int, count: int) -> bytes:
        out = self.ffi.new("CK_BYTE[]", count)
        self.C_GenerateRandom(session, out, count)
        return bytes(self.ffi.buffer(out, count))

    def derive(self, session: int, base: int, mechanism: int, attributes, parameter: bytes = b"") -> int:
        handle = self.ulong()
        self.C_DeriveKey(session, self.mechanism(mechanism, parameter), base, *self.template(attributes), handle)
        return handle[0]

    def wrap(self, session: int, by: int, key: int, mechanism: int, parameter: bytes = b"") -> bytes:
        given = self.mechanism(mechanism, parameter)
        return self.bytes_of(lambda out, length: self.C_WrapKey(session, given, by, key, out, length))

    def unwrap(self, session: int, by: int, mechanism: int, data: bytes, attributes, parameter: bytes = b"") -> int:
        handle, given = self.ulong(), self.mechanism(mechanism, parameter)
        self.C_UnwrapKey(session, given, by, data, len(data), *self.template(attributes), handle)
        return handle[0]

    def verify(self, session: int, key: int, mechanism: int, data: bytes, signature: bytes, parameter=b"") -> None:
        self.C_VerifyInit(session, self.mechanism(mechanism, parameter), key)
        self.C_Verify(session, data, len(data), signature, len(signature))

    def verify_parts(self, session: int, key: int, mechanism: int, parts, signature: bytes, parameter=b"") -> None:
        self.C_VerifyInit(session, self.mechanism(mechanism, parameter), key)
        for part in parts:
            self.C_VerifyUpdate(session, part, len(part))
        self.C_VerifyFinal(session, signature, len(signature))

    def digest(self, session: int, mechanism: int, data: bytes) -> bytes:
        self.C_DigestInit(session, self.mechanism(mechanism))
        return self.bytes_of(lambda out, length: self.C_Digest(session, data, len(data), out, length))

    def crypt(self, way: str, session: int, key: int, mechanism: int, data: bytes, parameter: bytes = b"") -> bytes:
        """Encrypt or decrypt (`way`: "Encrypt", "Decrypt") in one part."""
        getattr(self, f"C_{way}Init")(session, self.mechanism(mechanism, parameter), key)
        return self.bytes_of(lambda *out: getattr(self, f"C_{way}")(session, data, len(data), *out))

    def crypt_parts(
        self, way: str, session: int, key: int, mechanism: int, parts, parameter: bytes = b""
    ) -> list[bytes]:
        """Encrypt or decrypt in parts: what each one gave, and what the end gave."""
        getattr(self, f"C_{way}Init")(session, self.mechanism(mechanism, parameter), key)
        update, final = getattr(self, f"C_{way}Update"), getattr(self, f"C_{way}Final")
        given = [self.bytes_of(lambda *out, part=part: update(session, part, len(part), *out)) for part in parts]
        return [*given, self.bytes_of(lambda *out: final(session, *out))]
