"""No sequence of calls makes a private key readable that its attributes, or the TPM, keep in the token.

A hypothesis state machine makes EC private keys in every way that there is, with random attributes, changes, copies,
wraps and unwraps them, and looks at each one after every step. A key that was never an extractable session object, and
never came from one, is nowhere to be seen: neither as CKA_VALUE nor in what a wrapped key decrypts to.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from keys import CURVES, secret_key

from fuzz.machine import BOOLS, Host, explore
from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO

MOST_KEYS = 8
KEK = bytes(range(32))
WRAPS = {CKM.AES_CBC_PAD: bytes(16), CKM.AES_KEY_WRAP_PAD: b"", CKM.AES_CBC: bytes(16)}
INFO = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo

wishes = st.fixed_dictionaries(
    {},
    optional={
        CKA.SENSITIVE: BOOLS,
        CKA.EXTRACTABLE: BOOLS,
        CKA.TOKEN: BOOLS,
        CKA.PRIVATE: st.sampled_from([TRUE, TRUE, FALSE]),
        CKA.COPYABLE: st.sampled_from([TRUE, TRUE, TRUE, FALSE]),
        CKA.MODIFIABLE: st.sampled_from([TRUE, TRUE, TRUE, FALSE]),
        CKA.WRAP_WITH_TRUSTED: st.sampled_from([TRUE, FALSE, FALSE]),
        CKA.LABEL: st.just(b"x"),
    },
)
changes = st.fixed_dictionaries(
    {},
    optional={
        CKA.SENSITIVE: BOOLS,
        CKA.EXTRACTABLE: BOOLS,
        CKA.WRAP_WITH_TRUSTED: BOOLS,
        CKA.ALWAYS_SENSITIVE: BOOLS,
        CKA.NEVER_EXTRACTABLE: BOOLS,
        CKA.VALUE: st.just(bytes(32)),
        CKA.LABEL: st.just(b"y"),
    },
).map(lambda drawn: dict(list(drawn.items())[:3]))


class Key:
    """What the machine knows of one private key object; `info` is its public half, by which the value is known."""

    def __init__(self, handle: int, info: bytes, *, in_software: bool, outside: bool) -> None:
        self.handle = handle
        self.info = info
        self.in_software = in_software
        self.outside = outside  # its value was out of the token once, or may leave
        self.sensitive = False
        self.extractable = True


def in_software(template: dict[int, bytes], extractable: bytes = FALSE) -> bool:
    return template.get(CKA.TOKEN) != TRUE and template.get(CKA.EXTRACTABLE, extractable) == TRUE


class SecrecyOfPairs(Host):
    """A host with private keys."""

    done: ClassVar[Counter[str]] = Counter()

    def __init__(self, desk) -> None:
        super().__init__(desk)
        self._keys: list[Key] = []
        self._wrapped: list[tuple[int, bytes, Key]] = []
        self._kept: set[bytes] = set()  # public halves of the keys that must not be seen
        self._by = 0

    def _kek(self) -> int:
        self._by = self._by or secret_key(self._run, self._session, KEK, CKK.AES)
        return self._by

    def _add(self, key: Key) -> None:
        self._keys.append(key)
        key.sensitive = self._flag(key.handle, CKA.SENSITIVE)
        key.extractable = self._flag(key.handle, CKA.EXTRACTABLE)
        if not key.outside and not key.in_software:
            self._kept.add(key.info)
        self._look(key)
        while len(self._keys) > MOST_KEYS:
            self._run.C_DestroyObject(self._session, self._keys.pop(0).handle)

    def _look(self, key: Key) -> None:
        """Look at a key as a host can, and see that it shows no more than it may."""
        sensitive, extractable = (self._flag(key.handle, type_) for type_ in (CKA.SENSITIVE, CKA.EXTRACTABLE))
        assert sensitive or not key.sensitive, "a sensitive key is no longer sensitive"
        assert key.extractable or not extractable, "a key has become extractable"
        key.sensitive, key.extractable = sensitive, extractable
        assert sensitive or not self._flag(key.handle, CKA.ALWAYS_SENSITIVE)
        assert not extractable or not self._flag(key.handle, CKA.NEVER_EXTRACTABLE)
        value = self._value(key.handle)
        assert (value is not None) == (extractable and not sensitive and key.in_software)
        if value is not None:
            private = ec.derive_private_key(int.from_bytes(value, "big"), ec.SECP256R1())
            assert private.public_key().public_bytes(*INFO) == key.info
            assert key.info not in self._kept, "the value of a key that stays is seen"

    def _info(self, handle: int) -> bytes:
        return self._run.get(self._session, handle, CKA.PUBLIC_KEY_INFO)

    @rule(template=wishes)
    def generate(self, template) -> None:
        pair = self._try(
            "generate", self._run.generate_pair, CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: CURVES["p256"][0]}, template
        )
        if pair:
            private = pair[1]
            self._add(Key(private, self._info(private), in_software=in_software(template), outside=False))

    @rule(template=wishes)
    def create(self, template) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        value = key.private_numbers().private_value.to_bytes(32, "big")
        is_key = {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(CKK.EC), CKA.EC_PARAMS: CURVES["p256"][0]}
        handle = self._try("create", self._run.create, {**is_key, **template, CKA.VALUE: value})
        if handle:
            info = key.public_key().public_bytes(*INFO)
            self._add(Key(handle, info, in_software=in_software(template), outside=True))

    @precondition(lambda self: self._keys)
    @rule(data=st.data(), template=changes | wishes)
    def copy(self, data, template) -> None:
        key = data.draw(st.sampled_from(self._keys))
        handle = self._try("copy", self._copy, key.handle, template)
        if not handle:
            return
        was = {type_: self._run.get(self._session, key.handle, type_) for type_ in (CKA.TOKEN, CKA.EXTRACTABLE)}
        other = Key(handle, key.info, in_software=key.in_software and in_software({**was, **template}), outside=True)
        self._add(other)
        assert other.sensitive or not key.sensitive, "a copy of a sensitive key is not sensitive"
        assert key.extractable or not other.extractable, "a copy of a key that stays is extractable"

    @precondition(lambda self: self._keys)
    @rule(data=st.data(), mechanism=st.sampled_from(sorted(WRAPS)))
    def wrap(self, data, mechanism) -> None:
        key = data.draw(st.sampled_from(self._keys))
        wanted_trust = self._flag(key.handle, CKA.WRAP_WITH_TRUSTED)
        blob = self._try("wrap", self._run.wrap, self._kek(), key.handle, mechanism, WRAPS[mechanism])
        if blob is None:
            return
        assert key.extractable
        assert key.in_software
        assert not wanted_trust, "no key here is trusted"
        self._wrapped = [*self._wrapped[-7:], (mechanism, blob, key)]
        opened = self._run.crypt("Decrypt", self._session, self._kek(), mechanism, blob, WRAPS[mechanism])
        try:
            found = serialization.load_der_private_key(opened, None).public_key().public_bytes(*INFO)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise AssertionError("what was wrapped is not PKCS #8") from None
        assert found == key.info
        assert found not in self._kept, "a key that stays was wrapped"

    @precondition(lambda self: self._wrapped)
    @rule(data=st.data(), template=wishes)
    def unwrap(self, data, template) -> None:
        mechanism, blob, key = data.draw(st.sampled_from(self._wrapped))
        is_key = {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(CKK.EC)}
        handle = self._try(
            "unwrap", self._run.unwrap, self._kek(), mechanism, blob, {**is_key, **template}, WRAPS[mechanism]
        )
        if handle:
            self._add(Key(handle, key.info, in_software=in_software(template, TRUE), outside=True))

    @precondition(lambda self: self._keys)
    @rule(data=st.data(), wanted=changes)
    def change(self, data, wanted) -> None:
        key = data.draw(st.sampled_from(self._keys))
        self._try("change", lambda *args: self._run.set(*args) or True, key.handle, wanted)
        self._look(key)


def test_no_private_key_gets_out(desk):
    good = ("generate", "create", "copy", "wrap", "unwrap", "change")
    explore(SecrecyOfPairs, desk, good, ("copy", "wrap", "change"))
