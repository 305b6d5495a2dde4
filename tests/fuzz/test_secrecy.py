"""No sequence of calls makes a secret readable that its attributes keep in the token.

A hypothesis state machine makes secret keys in every way that there is, with random attributes, changes, copies,
wraps, unwraps and derives them, and looks at each one after every step. A key's value comes from one or more roots:
values that were generated or brought in. A root that was never extractable must be nowhere to be seen, neither as
CKA_VALUE nor in what a wrapped key decrypts to; an object that is sensitive or not extractable never shows its value.
Keys that are sensitive but extractable may come back readable after a wrap, and what is derived one way may be derived
again to be read: these are the standard's own rules.

P11TPM_FUZZ_ROUNDS is the number of steps: 200000 take about four minutes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import count
from typing import ClassVar

from cryptography.hazmat.primitives import hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from fuzz.machine import BOOLS, Host, explore
from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO

MOST_KEYS = 12

USAGES = (CKA.ENCRYPT, CKA.DECRYPT, CKA.SIGN, CKA.WRAP, CKA.UNWRAP, CKA.DERIVE)
ALL_USAGES = dict.fromkeys(USAGES, TRUE)
BLOCK = bytes(16)
WRAPS = {  # mechanism: parameter
    CKM.AES_ECB: b"",
    CKM.AES_CBC: bytes(16),
    CKM.AES_CBC_PAD: bytes(16),
    CKM.AES_KEY_WRAP: b"",
    CKM.AES_KEY_WRAP_PAD: b"",
}
JOINED = {  # what holds the base key, or a part of it
    CKM.CONCATENATE_BASE_AND_KEY,
    CKM.CONCATENATE_BASE_AND_DATA,
    CKM.CONCATENATE_DATA_AND_BASE,
    CKM.XOR_BASE_AND_DATA,
}
OTHERS = {CKM.SHA256_KEY_DERIVATION, CKM.AES_ECB_ENCRYPT_DATA}

types = st.sampled_from([CKK.AES, CKK.GENERIC_SECRET])
protection = st.fixed_dictionaries(
    {},
    optional={
        CKA.SENSITIVE: BOOLS,
        CKA.EXTRACTABLE: st.sampled_from([TRUE, TRUE, FALSE]),
        CKA.PRIVATE: BOOLS,
        CKA.COPYABLE: st.sampled_from([TRUE, TRUE, TRUE, FALSE]),
        CKA.MODIFIABLE: st.sampled_from([TRUE, TRUE, TRUE, FALSE]),
        CKA.WRAP_WITH_TRUSTED: st.sampled_from([TRUE, FALSE, FALSE]),
        CKA.TOKEN: st.sampled_from([FALSE] * 15 + [TRUE]),
        CKA.LABEL: st.just(b"x"),
    },
)
changes = st.fixed_dictionaries(
    {},
    optional={
        CKA.SENSITIVE: BOOLS,
        CKA.EXTRACTABLE: BOOLS,
        CKA.WRAP_WITH_TRUSTED: BOOLS,
        CKA.TRUSTED: BOOLS,
        CKA.ALWAYS_SENSITIVE: BOOLS,
        CKA.NEVER_EXTRACTABLE: BOOLS,
        CKA.COPYABLE: BOOLS,
        CKA.MODIFIABLE: BOOLS,
        CKA.VALUE: st.binary(min_size=16, max_size=16),
        CKA.LABEL: st.just(b"y"),
    },
).map(lambda drawn: dict(list(drawn.items())[:3]))


class Root:
    """A value that came to be in the token or was brought in, by what is known of it without knowing it."""

    def __init__(self, mark: bytes, *, exportable: bool) -> None:
        self.mark = mark
        self.exportable = exportable


def marks(value: bytes) -> set[bytes]:
    """What is known of every key that stands somewhere in a value."""
    found = set()
    for size in (16, 32):
        for at in range(len(value) - size + 1):
            part = value[at : at + size]
            encryptor = Cipher(algorithms.AES(part), modes.ECB()).encryptor()
            code = hmac.HMAC(part, SHA256())
            code.update(BLOCK)
            found |= {encryptor.update(BLOCK), code.finalize()}
    return found


class Key:
    """What the machine knows of one key object."""

    def __init__(self, handle: int, key_type: int, roots: frozenset[Root], **was: bool) -> None:
        self.handle = handle
        self.key_type = key_type
        self.roots = roots
        self.always_sensitive = was.get("sensitive", False)
        self.never_extractable = was.get("kept", False)
        self.sensitive = False
        self.extractable = True
        self.value: bytes | None = None


class Secrecy(Host):
    """A host with secret keys."""

    done: ClassVar[Counter[str]] = Counter()
    numbers = count()

    def __init__(self, desk) -> None:
        super().__init__(desk)
        self._keys: list[Key] = []
        self._wrapped: list[tuple[int, int, bytes, Key]] = []
        self._secret: set[bytes] = set()  # marks of roots that must not be seen

    # -- what the host can do

    def _new_root(self, key: Key, *, again: bool = False) -> None:
        """Find out what is known of a new key without reading it: what it makes of a block of zeros."""
        if key.key_type == CKK.AES:
            mark = self._run.crypt("Encrypt", self._session, key.handle, CKM.AES_ECB, BLOCK)
        else:
            mark = self._run.sign(self._session, key.handle, CKM.SHA256_HMAC, BLOCK)
        root = Root(mark, exportable=again or self._flag(key.handle, CKA.EXTRACTABLE))
        key.roots = frozenset({root})
        if not root.exportable:
            self._secret.add(mark)

    def _add(self, key: Key) -> None:
        self._keys.append(key)
        key.sensitive, key.extractable = self._flag(key.handle, CKA.SENSITIVE), self._flag(key.handle, CKA.EXTRACTABLE)
        if not key.roots:
            self._new_root(key)
        self._look(key)
        while len(self._keys) > MOST_KEYS:
            self._run.C_DestroyObject(self._session, self._keys.pop(0).handle)

    def _look(self, key: Key) -> None:
        """Look at a key as a host can, and see that it shows no more than it may."""
        sensitive, extractable = self._flag(key.handle, CKA.SENSITIVE), self._flag(key.handle, CKA.EXTRACTABLE)
        assert sensitive or not key.sensitive, "a sensitive key is no longer sensitive"
        assert key.extractable or not extractable, "a key has become extractable"
        key.sensitive, key.extractable = sensitive, extractable
        key.always_sensitive &= sensitive
        key.never_extractable &= not extractable
        assert key.always_sensitive or not self._flag(key.handle, CKA.ALWAYS_SENSITIVE)
        assert key.never_extractable or not self._flag(key.handle, CKA.NEVER_EXTRACTABLE)
        value = self._value(key.handle)
        assert (value is not None) == (extractable and not sensitive)
        if value is not None:
            assert all(root.exportable for root in key.roots)
            self._seen(value)

    def _seen(self, value: bytes) -> None:
        assert not self._secret & marks(value), "the value of a key that was never extractable is seen"

    # -- keys come to be

    @rule(key_type=types, size=st.sampled_from([16, 32]), template=protection)
    def generate(self, key_type, size, template) -> None:
        mechanism = {CKK.AES: CKM.AES_KEY_GEN, CKK.GENERIC_SECRET: CKM.GENERIC_SECRET_KEY_GEN}[key_type]
        template = {**ALL_USAGES, **template, CKA.VALUE_LEN: ulong(size)}
        handle = self._try("generate", self._generate, mechanism, template)
        if handle:
            self._add(Key(handle, key_type, frozenset(), sensitive=True, kept=True))

    def _generate(self, session: int, mechanism: int, template: dict[int, bytes]) -> int:
        handle = self._run.ulong()
        self._run.C_GenerateKey(session, self._run.mechanism(mechanism), *self._run.template(template), handle)
        return handle[0]

    @rule(key_type=types, size=st.sampled_from([16, 32]), template=protection)
    def create(self, key_type, size, template) -> None:
        value = hashlib.sha256(b"value %d" % next(self.numbers)).digest()[:size]
        is_key = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(key_type)}
        handle = self._try("create", self._run.create, {**is_key, **ALL_USAGES, **template, CKA.VALUE: value})
        if handle:
            key = Key(handle, key_type, frozenset())
            key.value = value
            self._add(key)

    @precondition(lambda self: self._keys)
    @rule(data=st.data(), template=changes | protection)
    def copy(self, data, template) -> None:
        key = data.draw(st.sampled_from(self._keys))
        handle = self._try("copy", self._copy, key.handle, template)
        if handle:
            was = {"sensitive": key.always_sensitive, "kept": key.never_extractable}
            other = Key(handle, key.key_type, key.roots, **was)
            self._add(other)
            assert other.sensitive or not key.sensitive, "a copy of a sensitive key is not sensitive"
            assert key.extractable or not other.extractable, "a copy of a key that stays is extractable"

    @precondition(lambda self: self._keys)
    @rule(data=st.data(), mechanism=st.sampled_from(sorted(JOINED | OTHERS)), key_type=types, template=protection)
    def derive(self, data, mechanism, key_type, template) -> None:
        key = data.draw(st.sampled_from(self._keys))
        bases, parameter = {key}, b""
        if mechanism == CKM.CONCATENATE_BASE_AND_KEY:
            other = data.draw(st.sampled_from(self._keys))
            bases.add(other)
            parameter = ulong(other.handle)
        elif mechanism != CKM.SHA256_KEY_DERIVATION:
            given = self._run.ffi.from_buffer(data.draw(st.binary(min_size=1, max_size=4) | st.just(bytes(32))))
            parameter = ulong(int(self._run.ffi.cast("CK_ULONG", given))) + ulong(len(given))
        size = data.draw(st.sampled_from([16, 32]))
        is_key = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(key_type), CKA.VALUE_LEN: ulong(size)}
        template = {**is_key, **ALL_USAGES, **template}
        handle = self._try("derive", self._run.derive, key.handle, mechanism, template, parameter)
        if not handle:
            return
        was = {
            "sensitive": all(base.always_sensitive for base in bases),
            "kept": all(base.never_extractable for base in bases),
        }
        joined = mechanism in JOINED
        roots = frozenset().union(*(base.roots for base in bases)) if joined else frozenset()
        made = Key(handle, key_type, roots, **was)
        if not joined:
            self._new_root(made, again=True)
        self._add(made)
        if joined:
            assert made.sensitive or not any(base.sensitive for base in bases)
            assert not made.extractable or all(base.extractable for base in bases)

    # -- keys go out and come in

    @precondition(lambda self: self._keys)
    @rule(data=st.data(), mechanism=st.sampled_from(sorted(WRAPS)))
    def wrap(self, data, mechanism) -> None:
        by, key = (data.draw(st.sampled_from(self._keys)) for _ in range(2))
        wanted_trust = self._flag(key.handle, CKA.WRAP_WITH_TRUSTED)
        blob = self._try("wrap", self._run.wrap, by.handle, key.handle, mechanism, WRAPS[mechanism])
        if blob is None:
            return
        assert key.extractable
        assert not wanted_trust, "no key here is trusted"
        assert all(root.exportable for root in key.roots)
        self._wrapped = [*self._wrapped[-7:], (by.handle, mechanism, blob, key)]
        opened = self._try("decrypt", self._decrypt, by.handle, mechanism, blob)
        if opened:
            self._seen(opened)

    def _decrypt(self, session: int, by: int, mechanism: int, blob: bytes) -> bytes:
        return self._run.crypt("Decrypt", session, by, mechanism, blob, WRAPS[mechanism])

    @precondition(lambda self: self._wrapped)
    @rule(data=st.data(), key_type=types, length=st.sampled_from([None, None, 7]), template=protection)
    def unwrap(self, data, key_type, length, template) -> None:
        by, mechanism, blob, key = data.draw(st.sampled_from(self._wrapped))
        is_key = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(key_type)}
        wanted = {} if length is None else {CKA.VALUE_LEN: ulong(length)}
        template = {**is_key, **wanted, **ALL_USAGES, **template}
        handle = self._try("unwrap", self._run.unwrap, by, mechanism, blob, template, WRAPS[mechanism])
        if handle:
            self._add(Key(handle, key_type, key.roots))

    # -- keys change

    @precondition(lambda self: self._keys)
    @rule(data=st.data(), wanted=changes)
    def change(self, data, wanted) -> None:
        key = data.draw(st.sampled_from(self._keys))
        self._try("change", lambda *args: self._run.set(*args) or True, key.handle, wanted)
        self._look(key)

    @precondition(lambda self: self._keys)
    @rule(data=st.data())
    def search(self, data) -> None:
        """A search by value must not tell whether a guess is right."""
        key = data.draw(st.sampled_from(self._keys))
        if key.value is not None:
            assert key.handle not in self._run.find(self._session, {CKA.VALUE: key.value})

    @precondition(lambda self: self._keys)
    @rule(data=st.data())
    def destroy(self, data) -> None:
        key = data.draw(st.sampled_from(self._keys))
        self._keys.remove(key)
        self._run.C_DestroyObject(self._session, key.handle)


def test_no_secret_gets_out(desk):
    good = ("generate", "create", "copy", "derive", "wrap", "decrypt", "unwrap", "change")
    explore(Secrecy, desk, good, ("copy", "derive", "wrap", "unwrap", "change"))
