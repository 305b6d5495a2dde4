"""What the store remembers of resident keys where it cannot be written to, and when others write to it."""

from __future__ import annotations

import os

import pytest

from p11tpm.ck import CKR
from p11tpm.core.residents import Residents
from p11tpm.error import Error
from p11tpm.store import Record, Store, TokenRow
from p11tpm.tpm import Tpm

HANDLE = 0x81020000


def stored(directory):
    """A store with one resident key; it and its record."""
    store = Store(str(directory))
    token = store.add_token(TokenRow(uuid=os.urandom(16), label="first", serial="0", salt=os.urandom(16)))
    (id_,) = store.add([Record(token, os.urandom(16), {}, b"public", b"private")])
    store.set_resident(store.record(id_), HANDLE)
    return store, store.record(id_)


def residents(store, record):
    return Residents(store, Tpm("swtpm:host=127.0.0.1,port=1"), record.token)


def test_a_lost_key_is_forgotten(tmp_path):
    store, record = stored(tmp_path / "store")
    residents(store, record).lost(record)
    assert (record.resident, store.record(record.id).resident) == (0, 0)


def test_what_another_process_has_made_resident_since_is_not_forgotten(tmp_path):
    store, record = stored(tmp_path / "store")
    store.set_resident(record, HANDLE + 1)
    residents(store, record).lost(record)
    assert (record.resident, store.record(record.id).resident) == (0, HANDLE + 1)


def test_a_store_that_can_not_be_written_to(home, as_nobody):
    """A lost key is forgotten by this process; and nothing is done to the TPM that could not be remembered."""

    def work():
        store, record = stored(home / "store")
        store.close()
        (home / "store" / "p11tpm.db").chmod(0o400)
        ours = residents(store, record)
        for change in (lambda: ours.remove(record, b""), lambda: ours.evict([record])):
            with pytest.raises(Error) as refused:
                change()
            assert refused.value.rv == CKR.TOKEN_WRITE_PROTECTED
        ours.lost(record)
        return record.resident, store.record(record.id).resident

    assert as_nobody(work) == (0, HANDLE)
