"""What a host has in the TPM at any time, and what it has imported: little."""

import os
import subprocess
import sys

from cryptoki import USER
from keys import ec_pair, rsa_pair

from p11tpm.ck import CKM

PIN = b"123456"
OBJECT, SESSION = 0x80, {0x02, 0x03}  # TPM_HT, the first byte of a handle: Part 2, clause 7.2


class Held:
    """What the commands of a proxy left in the TPM, and the most of it at any time: transient objects, sessions."""

    def __init__(self, commands):
        self._handles = set()
        self.objects = self.sessions = self.both = 0
        for command in commands:
            self._take(command)

    def _take(self, command):
        if command.rc:
            return
        if command.name in {"StartAuthSession", "Load", "CreatePrimary", "LoadExternal", "ContextLoad"}:
            self._handles.add(command.response[10:14])
        elif command.name == "FlushContext":
            self._handles.remove(command.request[10:14])
        objects = sum(handle[0] == OBJECT for handle in self._handles)
        sessions = sum(handle[0] in SESSION for handle in self._handles)
        self.objects, self.sessions = max(self.objects, objects), max(self.sessions, sessions)

    @property
    def left(self):
        return len(self._handles)


def test_one_object_and_one_session_at_a_time(token, proxy):
    """The kernel's resource manager saves and reloads all that there is around every command."""
    setup = token.open(token.slots()[0])
    token.login(setup, USER, PIN)
    keys = [ec_pair(token, setup, id_=b"1"), ec_pair(token, setup, "p384", id_=b"2"), rsa_pair(token, setup)]
    token.finalize()
    proxy.clear()
    token.initialize()
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    found = token.find(session, {0: (3).to_bytes(8, "little")})
    assert len(found) == len(keys)
    for _ in range(2):
        for key, mechanism in zip(found, (CKM.ECDSA, CKM.ECDSA, CKM.SHA256_RSA_PKCS), strict=True):
            token.sign(session, key, mechanism, bytes(32))
            token.sign(session, key, mechanism, bytes(32))
            token.random(session, 8)
    token.logout(session)
    held = Held(proxy.commands)
    assert (held.objects, held.sessions, held.left) == (1, 1, 0)


HOST = """
import ctypes, sys
before = set(sys.modules)
module, pin = ctypes.CDLL(sys.argv[1]), sys.argv[2].encode()
def call(name, *arguments):
    rv = getattr(module, name)(*arguments)
    if rv: sys.exit(f"{name}: {rv:#x}")
u, ref = ctypes.c_ulong, ctypes.byref
class Attribute(ctypes.Structure):
    _fields_ = [("type", u), ("value", ctypes.c_void_p), ("length", u)]
class Mechanism(ctypes.Structure):
    _fields_ = [("type", u), ("parameter", ctypes.c_void_p), ("length", u)]
count, slot, session, key, private = u(1), u(), u(), u(), u(3)
call("C_Initialize", None)
call("C_GetSlotList", ctypes.c_ubyte(1), ref(slot), ref(count))
call("C_OpenSession", slot, u(4), None, None, ref(session))
public = Attribute(0, ctypes.addressof(u(2)), 8)
call("C_FindObjectsInit", session, ref(public), u(1))
call("C_FindObjects", session, ref(key), u(1), ref(count))
call("C_FindObjectsFinal", session)
print(*sorted(set(sys.modules) - before))
call("C_Login", session, u(1), pin, u(len(pin)))
wanted = Attribute(0, ctypes.addressof(private), 8)
call("C_FindObjectsInit", session, ref(wanted), u(1))
call("C_FindObjects", session, ref(key), u(1), ref(count))
call("C_FindObjectsFinal", session)
mechanism, length = Mechanism(0x1041, None, 0), u(512)
call("C_SignInit", session, ref(mechanism), key)
call("C_Sign", session, bytes(32), u(32), ctypes.create_string_buffer(512), ref(length))
print(*sorted(set(sys.modules) - before))
"""

# fmt: off
OURS = {
    "_native", "_native.lib", "algorithm", "attribute", "ck", "core", "core.identity", "core.module", "core.object",
    "core.objects", "core.pin", "core.secret", "core.session", "core.token", "core.token_state", "core.token_tpm",
    "crypto", "crypto.hashes", "crypto.message", "crypto.padding", "entry", "entry.attach", "entry.c_memory",
    "entry.decrypt", "entry.digest", "entry.dual", "entry.encrypt", "entry.general", "entry.key", "entry.object",
    "entry.run", "entry.session", "entry.sign", "entry.slot", "entry.verify", "error", "family", "family.ec",
    "family.family", "given", "host", "host.config", "host.descriptor", "host.ending", "host.files", "host.imports",
    "host.locked", "host.log", "host.system", "host.trylock", "mechanism", "operation", "operation.find",
    "operation.sign", "operation.use", "store", "store.database", "store.rows", "store.schema",
    "store.session_objects", "store.store", "tpm", "tpm.codec", "tpm.command", "tpm.connection", "tpm.hmac_session",
    "tpm.kdf", "tpm.loaded", "tpm.retry", "tpm.salt", "tpm.template", "tpm.tpm", "tpm.turns", "tpm.wire",
}
PYTHONS = {  # or fewer, as a version of Python has it
    "__future__", "_cffi_backend", "_functools", "_operator", "_p11tpm", "_p11tpm.lib", "_sqlite3", "errno", "fcntl",
    "itertools",
}
# fmt: on
HEAVY = {"tpm2_pytss", "cryptography", "asn1crypto", "logging", "dataclasses", "pathlib", "typing", "tomllib"}
HEAVY |= {"configparser", "enum", "re", "contextlib", "threading", "json", "sqlite3", "datetime"}


def test_what_is_imported_up_to_the_first_signature(token, module_path):
    """A new module here costs every host milliseconds: is it needed before the first signature?"""
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    ec_pair(token, session)
    token.finalize()
    command = [sys.executable, "-I", "-S", "-c", HOST, module_path, PIN.decode()]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    listing, imported = (set(line.split()) for line in done.stdout.splitlines())
    assert not {name for name in listing if name.startswith("p11tpm.tpm") or "hash" in name}, "for a list of keys"
    assert not HEAVY & {name.partition(".")[0] for name in imported}
    ours = {name for name in imported if name.partition(".")[0] == "p11tpm"}
    assert ours == {"p11tpm", *(f"p11tpm.{name}" for name in OURS)}
    assert imported - ours <= PYTHONS
    token.initialize()
