"""A login whose token another program initialises again, deletes or replaces, and one that ends during a call."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from cryptoki import SO, USER, Rv
from keys import ec_pair, secret_key
from parameters import hkdf
from test_objects import certificate, certificate_template

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR, CKS
from p11tpm.core.secret import Secret
from p11tpm.core.token import Token
from p11tpm.crypto import domain
from p11tpm.error import Error, GoneError
from p11tpm.family.tpm_pair import TpmPair
from p11tpm.host.config import Config
from p11tpm.keys.derive import Derivation
from p11tpm.store import Store
from rig.deadline import join

PIN, SO_PIN = b"123456", b"so-secret"
NOTE = {CKA.CLASS: ulong(CKO.DATA), CKA.TOKEN: TRUE, CKA.VALUE: b"a note"}
GENERIC = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET), CKA.TOKEN: TRUE}


class Other:
    """Another program on the same store and TPM."""

    def __init__(self) -> None:
        self.store = Store(os.environ["P11TPM_STORE"])
        (self.token,) = Token.open_all(Config.load(), self.store)

    def initialize_again(self) -> None:
        self.token.reinitialize("again", SO_PIN)

    def delete(self) -> None:
        self.token.delete()

    def replace(self) -> None:
        """Put a store in the place of this one, in which identifiers are the same and nothing else."""
        directory = self.store.database.directory
        other = Store(directory + ".new")
        row = self.token.row
        row.uuid = os.urandom(16)
        other.add_token(row)
        other.add([self.store.record(1)])
        other.close()
        Path(other.database.path).rename(self.store.database.path)

    def remove(self) -> None:
        """Remove the store."""
        shutil.rmtree(self.store.database.directory)


ENDS = {
    Other.initialize_again: CKR.DEVICE_REMOVED,
    Other.replace: CKR.DEVICE_REMOVED,
    Other.delete: CKR.TOKEN_NOT_PRESENT,
    Other.remove: CKR.TOKEN_NOT_PRESENT,
}


def refused(call, *args):
    with pytest.raises(Rv) as caught:
        call(*args)
    return caught.value.rv


def copy(run, session, handle):
    run.C_CopyObject(session, handle, *run.template({CKA.TOKEN: TRUE}), run.ulong())


def unwrap(run, session, key):
    template = run.template({**GENERIC, CKA.KEY_TYPE: ulong(CKK.AES)})
    run.C_UnwrapKey(session, run.mechanism(CKM.AES_KEY_WRAP), key, bytes.fromhex(WRAPPED), 24, *template, run.ulong())


WRAPPED = "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"  # RFC 3394, clause 4.1
WRAPPING = bytes(range(16))
HASHED = {**GENERIC, CKA.VALUE_LEN: ulong(16)}
SESSION_KEY = {**GENERIC, CKA.TOKEN: FALSE, CKA.VALUE: WRAPPING, CKA.KEY_TYPE: ulong(CKK.AES)}

WRITES = {
    "create": lambda run, session, _: run.create(session, {**NOTE, CKA.PRIVATE: TRUE}),
    "create what is public": lambda run, session, _: run.create(session, certificate_template(certificate())),
    "create a key": lambda run, session, _: secret_key(run, session, bytes(16), CKK.AES, TOKEN=TRUE),
    "generate a pair": lambda run, session, _: ec_pair(run, session),
    "derive": lambda run, session, known: run.derive(session, known["base"], CKM.SHA256_KEY_DERIVATION, HASHED),
    "unwrap": lambda run, session, known: unwrap(run, session, known["wraps"]),
    "copy": lambda run, session, known: copy(run, session, known["base"]),
    "set attributes": lambda run, session, known: run.set(session, known["public"], {CKA.LABEL: b"new"}),
    "destroy": lambda run, session, known: run.C_DestroyObject(session, known["public"]),
    "set the PIN": lambda run, session, _: run.set_pin(session, PIN, b"654321"),
}


@pytest.fixture
def known(token, session):
    public = token.create(session, {**NOTE, CKA.PRIVATE: FALSE})  # object 1 of the store
    base = token.create(session, {**SESSION_KEY, CKA.DERIVE: TRUE})
    return {"public": public, "base": base, "wraps": token.create(session, {**SESSION_KEY, CKA.UNWRAP: TRUE})}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_nothing_is_written_for_a_token_that_is_gone(token, session, known, swtpm, end, write):
    other = Other()
    end(other)
    before = other.store.find(1, {}, {})
    assert refused(write, token, session, known) == ENDS[end]
    assert token.state(session) == CKS.RW_PUBLIC_SESSION
    assert other.store.find(1, {}, {}) == before
    assert swtpm.lockout_counter() == 0


def test_one_can_log_in_to_what_is_there_now(token, session):
    Other().initialize_again()
    assert refused(ec_pair, token, session) == CKR.DEVICE_REMOVED
    assert refused(token.login, session, USER, PIN) == CKR.USER_PIN_NOT_INITIALIZED
    token.login(session, SO, SO_PIN)
    token.init_pin(session, b"another")
    token.logout(session)
    token.login(session, USER, b"another")
    _, private = ec_pair(token, session)
    token.sign(session, private, CKM.ECDSA, bytes(32))


def test_a_key_that_is_gone_ends_the_login(token, session):
    _, private = ec_pair(token, session)
    Other().initialize_again()
    assert refused(token.sign, session, private, CKM.ECDSA, bytes(32)) == CKR.DEVICE_REMOVED
    assert token.state(session) == CKS.RW_PUBLIC_SESSION


def test_handles_of_a_token_that_is_gone_are_not_those_of_the_one_in_its_place(token, session, known):
    """Although its objects have the same numbers."""
    Other().replace()
    assert refused(ec_pair, token, session) == CKR.DEVICE_REMOVED
    assert refused(token.get, session, known["public"], CKA.VALUE) == CKR.OBJECT_HANDLE_INVALID
    (there,) = token.find(session, NOTE)
    assert there != known["public"]
    assert token.get(session, there, CKA.VALUE) == NOTE[CKA.VALUE]


def test_a_token_that_was_replaced_meanwhile_is_not_deleted(session):  # noqa: ARG001
    one, other = Other(), Other()
    assert one.token.label
    other.initialize_again()
    with pytest.raises(GoneError):
        one.token.delete()
    assert other.token.label == "again"


def test_a_key_is_used_while_another_is_made(token, session, monkeypatch):
    """Also after the store has changed, so that the login is looked at again."""
    _, private = ec_pair(token, session)
    begun, end = threading.Event(), threading.Event()

    def long(*_):
        begun.set()
        assert end.wait(60)
        raise Error(CKR.FUNCTION_FAILED, "enough")

    monkeypatch.setattr(TpmPair, "make", long)
    thread = threading.Thread(target=refused, args=(ec_pair, token, session), daemon=True)
    thread.start()
    assert begun.wait(60)
    other = Other()
    other.store.update_token(other.token.row, label="renamed")
    signer = threading.Thread(target=token.sign, args=(session, private, CKM.ECDSA, bytes(32)), daemon=True)
    signer.start()
    signer.join(30)
    end.set()
    assert not signer.is_alive()
    join(thread)


def test_the_so_sets_no_pin_of_another_token(token, swtpm):
    session = token.open(token.slots()[0])
    token.login(session, SO, SO_PIN)
    Other().initialize_again()
    assert refused(token.init_pin, session, b"654321") == CKR.DEVICE_REMOVED
    assert token.state(session) == CKS.RW_PUBLIC_SESSION
    assert swtpm.lockout_counter() == 0


def test_a_token_that_was_initialised_again_during_the_write(token, session, monkeypatch):
    """After everything was looked at, and before the transaction."""
    other = Other()
    add = Store.add

    def late(store, *args):
        other.initialize_again()
        return add(store, *args)

    with monkeypatch.context() as changed:
        changed.setattr(Store, "add", late)
        assert refused(ec_pair, token, session) == CKR.DEVICE_REMOVED
    assert other.store.find(1, {}, {}) == []


# -- a logout during a call, of another thread


def parameters(run, session, _, kept):
    template = {CKA.TOKEN: kept, CKA.PRIVATE: TRUE, CKA.PRIME_BITS: ulong(1024)}
    run.C_GenerateKey(session, run.mechanism(CKM.DSA_PARAMETER_GEN), *run.template(template), run.ulong())


def derived(run, session, base, kept):
    run.derive(session, base, CKM.SHA256_KEY_DERIVATION, {**HASHED, CKA.TOKEN: kept, CKA.PRIVATE: TRUE})


def derived_data(run, session, base, kept):
    template = {CKA.CLASS: ulong(CKO.DATA), CKA.TOKEN: kept, CKA.PRIVATE: TRUE, CKA.VALUE_LEN: ulong(16)}
    run.derive(session, base, CKM.HKDF_DATA, template, hkdf(CKM.SHA256))


LONG = [(parameters, domain, "generated"), (derived, Derivation, "value"), (derived_data, Derivation, "value")]


@pytest.mark.parametrize("kept", [TRUE, FALSE])
@pytest.mark.parametrize(("make", "owner", "name"), LONG, ids=[make.__name__ for make, *_ in LONG])
def test_a_login_that_ends_meanwhile(token, session, known, monkeypatch, make, owner, name, kept):
    work = getattr(owner, name)

    def meanwhile(*args):
        token.logout(session)
        return work(*args)

    monkeypatch.setattr(owner, name, meanwhile)
    assert refused(make, token, session, known["base"], kept) == CKR.USER_NOT_LOGGED_IN
    store = Store(os.environ["P11TPM_STORE"])
    assert store.find(1, {}, {}) == [1]


def read_value(run, session, note, _):
    run.get(session, note, CKA.VALUE)


def ask_size(run, session, note, _):
    run.C_GetObjectSize(session, note, run.ulong())


def find_by_value(run, session, *_):
    assert run.find(session, {CKA.VALUE: NOTE[CKA.VALUE]}) == []


def read_key(run, session, _, key):
    run.get(session, key, CKA.VALUE)


def digest_key(run, session, _, key):
    run.C_DigestInit(session, run.mechanism(CKM.SHA256))
    run.C_DigestKey(session, key)


READS = {
    read_value: CKR.OBJECT_HANDLE_INVALID,
    ask_size: CKR.OBJECT_HANDLE_INVALID,
    find_by_value: CKR.OK,
    read_key: CKR.OBJECT_HANDLE_INVALID,
    digest_key: CKR.KEY_HANDLE_INVALID,
}


@pytest.mark.parametrize("read", READS, ids=lambda read: read.__name__)
def test_a_logout_hides_what_another_thread_reads(token, session, monkeypatch, read):
    """These functions do not have CKR_USER_NOT_LOGGED_IN (clauses 5.7 and 5.12)."""
    note = token.create(session, {**NOTE, CKA.PRIVATE: TRUE})
    template = {**GENERIC, CKA.VALUE: bytes(32), CKA.EXTRACTABLE: TRUE, CKA.SENSITIVE: FALSE}
    key = token.create(session, template)
    decrypt = Secret.decrypt

    def meanwhile(*args):
        if token.state(session) == CKS.RW_USER_FUNCTIONS:
            token.logout(session)
        return decrypt(*args)

    monkeypatch.setattr(Secret, "decrypt", meanwhile)
    if READS[read] == CKR.OK:
        read(token, session, note, key)
    else:
        assert refused(read, token, session, note, key) == READS[read]
    assert token.state(session) == CKS.RW_PUBLIC_SESSION
