"""Tokens, objects and counts of wrong PINs, as one process sees them and as several do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.store import Record, Store, TokenRow
from p11tpm.store.rows import COLUMNS
from rig.deadline import join

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASS, PRIVATE, LABEL, ID = 0x000, 0x002, 0x003, 0x102
PRIVATE_KEY = (3).to_bytes(8, "little")


def a_token(label: str = "first") -> TokenRow:
    return TokenRow(uuid=os.urandom(16), label=label, serial="0123456789abcdef", salt=os.urandom(16))


def a_record(token: int, **names: bytes) -> Record:
    attributes = {CLASS: PRIVATE_KEY, PRIVATE: b"\1", LABEL: names.get("label", b""), ID: names.get("id", b"")}
    return Record(token, os.urandom(16), attributes, b"public", b"private", b"mac")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(str(tmp_path / "store"))
    yield store
    store.close()


def test_a_missing_store_reads_as_empty_and_is_not_made(store, tmp_path):
    assert store.tokens() == []
    assert store.token(1) is None
    assert store.find(1, {}, {}) == []
    assert store.record(1) is None
    assert store.failures(1, "USER") == (0, 0)
    assert store.next_token_id() == 1
    assert store.version() == store.version()
    assert store.writable
    assert list(tmp_path.iterdir()) == []


def test_a_missing_store_does_not_import_sqlite(tmp_path):
    code = (
        "import sys; from p11tpm.store import Store; Store(sys.argv[1]).tokens(); assert 'sqlite3' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "store")], timeout=60, check=True)


def test_a_token_is_read_as_it_was_written(store):
    texts = {
        "label": "über",
        "serial": "00ff",
        "tpm": "INTC|x|1.2",
        "capabilities": "p256 rsa2048",
        "policy": "pcr=7:00",
    }
    numbers = {"srk_handle": 0x81000001, "created": 1_700_000_000, "no_pin": False, "user_pin_set": True}
    blobs = {name: name.encode() for name in COLUMNS if name not in texts and name not in numbers}
    fields = {**texts, **numbers, **blobs}
    assert store.next_token_id() == store.add_token(TokenRow(**fields)) == 1
    row = store.token(1)
    assert {name: getattr(row, name) for name in COLUMNS} == fields
    assert row.no_pin is False
    assert row.user_pin_set is True
    assert [token.id for token in store.tokens()] == [1]


def test_a_token_changes_column_by_column(store):
    id_ = store.add_token(a_token())
    before = store.token(id_)
    store.update_token(before, user_private=b"new", user_pin_set=True)
    after = store.token(id_)
    assert (after.user_private, after.user_pin_set) == (b"new", True)
    assert (after.uuid, after.salt) == (before.uuid, before.salt)
    with pytest.raises(TypeError):
        store.update_token(after, password="x")


def test_identifiers_are_never_used_again(store):
    token = store.add_token(a_token())
    other = store.add_token(a_token())
    (first,) = store.add([a_record(token)])
    assert store.delete([store.record(first)]) == 1
    assert store.add([a_record(token)]) == [first + 1]
    store.delete_token(other, store.token(other).uuid)
    assert store.next_token_id() == other + 1
    assert store.add_token(a_token()) == other + 1


def test_replacing_a_token_destroys_its_objects_and_forgives_its_wrong_pins(store):
    token, other = store.add_token(a_token()), store.add_token(a_token("other"))
    store.add([a_record(token), a_record(token)])
    kept = store.add([a_record(other)])
    for role in ("SO", "USER"):
        store.add_failure(token, role, 0, 100)
        store.add_failure(other, role, 0, 200)
    row = a_token("again")
    row.id = token
    store.replace_token(row, store.token(token).uuid)
    assert store.token(token).label == "again"
    assert store.find(token, {}, {}) == []
    assert store.failures(token, "SO") == store.failures(token, "USER") == (0, 0)
    assert store.find(other, {}, {}) == kept
    assert store.failures(other, "USER") == (1, 200)


def test_a_deleted_token_takes_its_objects_along_and_can_not_be_changed(store):
    token = store.add_token(a_token())
    (id_,) = store.add([a_record(token)])
    was = store.token(token).uuid
    with pytest.raises(Error) as caught:
        store.delete_token(token, bytes(16))
    assert caught.value.rv == CKR.DEVICE_REMOVED, "it is another one"
    assert store.record(id_) is not None
    store.delete_token(token, was)
    store.delete_token(token, was)
    assert store.record(id_) is None
    row = a_token()
    row.id = token
    for change in (
        lambda: store.update_token(row, label="x"),
        lambda: store.replace_token(row, row.uuid),
        lambda: store.add([a_record(token)]),
    ):
        with pytest.raises(Error) as caught:
            change()
        assert caught.value.rv == CKR.TOKEN_NOT_PRESENT
    assert not store.add_failure(token, "USER", 0, 1), "it is counted by this process only"
    assert store.failures(token, "USER") == (1, 1)
    assert store.next_token_id() == token + 1


def test_an_object_is_read_as_it_was_written_and_changed(store):
    token = store.add_token(a_token())
    written = Record(token, os.urandom(16), {LABEL: b"", ID: bytes(3000), 0xFFFFFFFF: b"\0"}, None, None, None)
    (id_,) = store.add([written])
    read = store.record(id_)
    for name in ("token", "uuid", "attributes", "tpm_public", "tpm_private", "mac"):
        assert getattr(read, name) == getattr(written, name)
    assert read.id == id_
    assert store.update(read, {LABEL: b"new", CLASS: PRIVATE_KEY}, b"mac 2")
    new = store.record(id_)
    assert new.attributes == {**written.attributes, LABEL: b"new", CLASS: PRIVATE_KEY}
    assert new.mac == b"mac 2"
    assert not store.update(read, {LABEL: b"overtaken"}, b"mac 3")
    assert store.record(id_).attributes == new.attributes
    assert store.delete([new, new]) == 1
    assert not store.update(new, {LABEL: b"late"}, None)


def test_where_the_tpm_keeps_keys(store):
    first, second = store.add_token(a_token()), store.add_token(a_token("second"))
    assert store.residents(first) == []
    kept, other, loaded = store.add([a_record(first), a_record(second), a_record(first)])
    version = store.version()
    records = {id_: store.record(id_) for id_ in (kept, other)}
    assert store.set_resident(records[kept], 0x81020000)
    assert version != store.version()
    assert store.set_resident(records[other], 0x81020001)
    assert [(record.id, record.resident) for record in store.residents(first)] == [(kept, 0x81020000)]
    assert (store.record(kept).resident, store.record(loaded).resident) == (0x81020000, 0)
    assert not store.set_resident(records[kept], 0, was=0x81020001)
    assert store.set_resident(records[kept], 0, was=0x81020000)
    assert store.residents(first) == []
    store.delete([records[kept]])
    assert not store.set_resident(records[kept], 0x81020000)


def test_public_areas_of_keys_and_of_roots_that_are_made_anew_are_known(store):
    for handle, root in ((0x81000001, b"persistent"), (0, b"made anew")):
        row = a_token()
        row.srk_handle, row.srk_public = handle, root
        record = a_record(store.add_token(row))
        record.tpm_public = root + b"'s key"
        store.add([record])
    known = (b"persistent", b"made anew", b"persistent's key", b"made anew's key", b"")
    assert [store.has_public(public) for public in known] == [False, True, True, True, False]


def test_objects_are_added_all_or_none(store):
    token = store.add_token(a_token())
    with pytest.raises(Error):
        store.add([a_record(token), a_record(token + 1)])
    assert store.find(token, {}, {}) == []


_values = st.sampled_from([b"", b"\0", b"\1", b"a", b"b" * 40])
_templates = st.dictionaries(st.integers(0, 4), _values, max_size=4)


@given(
    st.lists(st.tuples(st.integers(0, 1), _templates), max_size=24),
    st.lists(st.tuples(_templates, _templates), min_size=1, max_size=4),
)
@pytest.mark.slow
def test_a_search_finds_what_has_all_and_none(tmp_path_factory, objects, searches):
    store = Store(str(tmp_path_factory.mktemp("search")))
    tokens = [store.add_token(a_token()), store.add_token(a_token())]
    ids = store.add([Record(tokens[owner], os.urandom(16), attributes) for owner, attributes in objects])
    for wanted, unwanted in searches:
        for number, token in enumerate(tokens):
            assert store.find(token, wanted, unwanted) == [
                id_
                for id_, (owner, attributes) in zip(ids, objects, strict=True)
                if owner == number
                and wanted.items() <= attributes.items()
                and not unwanted.items() & attributes.items()
            ]
    store.close()


def test_a_search_for_numbers_and_amounts_that_no_object_has(store):
    token = store.add_token(a_token())
    store.add([a_record(token)])
    assert store.find(token, {2**64 - 1: b"x"}, {}) == []
    assert store.find(token, dict.fromkeys(range(250), b""), {}) == []
    with pytest.raises(Error) as caught:
        store.find(token, dict.fromkeys(range(251), b""), {})
    assert caught.value.rv == CKR.ARGUMENTS_BAD


def steps_of(store: Store, work) -> int:
    """Count the steps of SQLite's virtual machine."""
    count = [0]

    def step() -> int:
        count[0] += 1
        return 0

    store.database.read(lambda db: db.set_progress_handler(step, 1), None)
    work()
    store.database.read(lambda db: db.set_progress_handler(None, 0), None)
    return count[0]


def fill(store: Store, token: int, first: int, end: int) -> None:
    store.add([a_record(token, label=b"key %d" % n, id=b"%d" % n) for n in range(first, end)])


def test_a_search_costs_the_same_whatever_else_is_there(store):
    token, other = store.add_token(a_token()), store.add_token(a_token("other"))
    fill(store, token, 0, 20)
    searches = [
        ({ID: b"7"}, {}),
        ({LABEL: b"key 7"}, {}),
        ({CLASS: PRIVATE_KEY, ID: b"7", PRIVATE: b"\1"}, {}),
        ({CLASS: PRIVATE_KEY, LABEL: b"key 7"}, {PRIVATE: b"\0"}),
    ]
    few = [steps_of(store, lambda s=search: store.find(token, *s)) for search in searches]
    assert [store.find(token, *search) for search in searches] == [[8]] * 4
    fill(store, token, 20, 2000)
    fill(store, other, 0, 500)
    assert [steps_of(store, lambda s=search: store.find(token, *s)) for search in searches] == few
    assert max(few) < 200


def test_asking_for_an_attribute_of_a_few_costs_the_same_whatever_else_is_there(store):
    token = store.add_token(a_token())
    fill(store, token, 0, 20)
    (public,) = store.add([Record(token, os.urandom(16), {CLASS: PRIVATE_KEY, PRIVATE: b"\0"}, None, None, None)])
    ids = [1, 20, public, 4711]
    assert store.having(ids, PRIVATE, b"\1") == {1, 20}
    before = steps_of(store, lambda: store.having(ids, PRIVATE, b"\1"))
    fill(store, token, 20, 2000)
    assert steps_of(store, lambda: store.having(ids, PRIVATE, b"\1")) == before


def test_opening_a_store_reads_as_much_whatever_is_in_it(store, tmp_path):
    token = store.add_token(a_token())
    fill(store, token, 0, 1)

    def bytes_read() -> int:
        line = open("/proc/self/io").readline()  # noqa: PTH123, SIM115 - what Path reads itself would count too
        return int(line.split()[1])

    def opening() -> int:
        store.close()
        before = bytes_read()
        store.find(token, {ID: b"0"}, {})
        return bytes_read() - before

    opening()
    few = opening()
    fill(store, token, 1, 2000)
    assert (tmp_path / "store" / "p11tpm.db").stat().st_size > 400_000
    assert opening() <= few + 2 * 4096  # one more level in each of the trees that are searched


def test_what_another_process_writes_is_seen_at_once(store, tmp_path):
    token = store.add_token(a_token())
    other = Store(str(tmp_path / "store"))
    assert other.find(token, {}, {}) == []
    before = other.version()
    assert other.version() == before
    ids = store.add([a_record(token)])
    assert other.version() != before
    assert other.find(token, {}, {}) == ids
    before = store.version()
    assert store.version() == before
    assert other.update(other.record(ids[0]), {LABEL: b"x"}, None)
    assert store.version() != before
    before = other.version()
    other.delete([other.record(ids[0])])
    assert other.version() != before


def test_a_deleted_or_replaced_file_is_noticed(store, tmp_path):
    file = tmp_path / "store" / "p11tpm.db"
    store.add_token(a_token("old"))
    old = store.version()
    file.unlink()
    assert store.tokens() == []
    assert store.version() != old
    store.add_token(a_token("new"))
    assert [row.label for row in store.tokens()] == ["new"]
    again = Store(str(tmp_path / "other"))
    again.add_token(a_token("replaced"))
    again.close()
    new = store.version()
    (tmp_path / "other" / "p11tpm.db").rename(file)
    assert store.version() != new
    assert [row.label for row in store.tokens()] == ["replaced"]
    store.add_token(a_token("more"))
    assert [row.label for row in Store(str(tmp_path / "store")).tokens()] == ["replaced", "more"]


def test_eight_threads_share_a_store(store):
    token = store.add_token(a_token())
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                name = b"%d %d" % (number, turn)
                ids = store.add([a_record(token, id=name)])
                assert store.find(token, {ID: name}, {}) == ids
                assert store.record(ids[0]).attributes[ID] == name
                assert store.delete([store.record(ids[0])]) == 1
        except BaseException as error:  # noqa: BLE001 - the test's own thread raises it
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert wrong == []
    assert store.find(token, {}, {}) == []


def test_wrong_pins_are_counted_for_all_processes(store, tmp_path):
    token = store.add_token(a_token())
    store.add_failure(token, "USER", 0, 1_600_000_000)
    store.add_failure(token, "USER", 0, 1_700_000_000)
    assert Store(str(tmp_path / "store")).failures(token, "USER") == (2, 1_700_000_000)
    assert store.failures(token, "SO") == (0, 0)
    for forgiven, left in ((0, 3), (2, 2), (9, 1)):
        store.add_failure(token, "USER", forgiven, 1)
        assert store.failures(token, "USER") == (left, 1)
    store.clear_failures(token, "USER")
    assert store.failures(token, "USER") == (0, 0)


def test_the_file_is_closed_on_exec_and_opened_again_after_close(store, tmp_path):
    token = store.add_token(a_token())
    path = tmp_path / "store" / "p11tpm.db"
    descriptors = _descriptors(path)
    assert descriptors
    assert not any(os.get_inheritable(fd) for fd in descriptors)
    store.close()
    assert not _descriptors(path)
    assert store.token(token) is not None


def _descriptors(path: Path) -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/fd").iterdir() if entry.resolve() == path]
