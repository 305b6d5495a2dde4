"""What lies where the store should be, and is not one: it is named, and nothing is written into it or beside it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest

from command import failed, good
from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.store import Record, Store, TokenRow, schema
from p11tpm.store.rows import COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

# The tables of other programs that keep keys and certificates in SQLite, each with what its header says
OTHERS = {
    "NSS": "CREATE TABLE nssPublic (id PRIMARY KEY UNIQUE ON CONFLICT ABORT, a0, a1, a2);"
    "CREATE INDEX issuer ON nssPublic (a1);",
    "NSS keys": "CREATE TABLE metaData (id PRIMARY KEY UNIQUE ON CONFLICT REPLACE, item1, item2);"
    "CREATE TABLE nssPrivate (id PRIMARY KEY UNIQUE ON CONFLICT ABORT, a0);",
    "Botan": "CREATE TABLE certificates (fingerprint BLOB PRIMARY KEY, subject_dn BLOB, certificate BLOB);"
    "CREATE TABLE keys (fingerprint BLOB PRIMARY KEY, key BLOB);",
    "cfssl": "CREATE TABLE goose_db_version (id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INTEGER);"
    "CREATE TABLE certificates (serial_number blob NOT NULL, pem blob NOT NULL);",
    "SoftHSM 1": "PRAGMA user_version=100; CREATE TABLE Token (variableID INTEGER PRIMARY KEY, value TEXT);"
    "CREATE TABLE Objects (objectID INTEGER PRIMARY KEY); CREATE TABLE Attributes (attributeID INTEGER PRIMARY KEY);",
    "tpm2-pkcs11": "CREATE TABLE tokens (id INTEGER PRIMARY KEY, label TEXT UNIQUE); CREATE TABLE schema (version);",
    "a version like ours": "PRAGMA user_version=2; CREATE TABLE token (id INTEGER PRIMARY KEY);",
    "tables like ours": "".join(f"CREATE TABLE {name} (x);" for name in ("token", "object", "attribute", "failure")),
    "a name of its own": "PRAGMA application_id=1196444487; CREATE TABLE gpkg_contents (x);",
    "a name and nothing else": "PRAGMA application_id=1196444487; CREATE TABLE x (x); DROP TABLE x;",
    "a version and nothing else": "PRAGMA user_version=2;",
    "a write-ahead log": "PRAGMA journal_mode=WAL; PRAGMA user_version=2; CREATE TABLE mine (x);",
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    directory = tmp_path / "store"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def file(store: Path) -> Path:
    return store / "p11tpm.db"


def state(directory: Path) -> dict[str, object]:
    """Everything that a write would change."""
    return {one.name: (one.read_bytes(), one.stat().st_mtime_ns, one.stat().st_ino) for one in directory.iterdir()}


def a_token() -> TokenRow:
    return TokenRow(uuid=os.urandom(16))


def make(file: Path, statements: str) -> None:
    db = sqlite3.connect(file)
    db.executescript(statements)
    db.close()
    file.chmod(0o600)


def refused(file: Path, why: str) -> None:
    """Every use of the store fails, and leaves what is there as it is."""
    before = state(file.parent)
    store = Store(str(file.parent))
    for use in (store.tokens, store.version, store.next_token_id, lambda: store.add_token(a_token())):
        with pytest.raises(Error, match=why) as caught:
            use()
        assert caught.value.rv == CKR.DEVICE_ERROR
        assert str(file) in caught.value.why
    store.close()
    assert state(file.parent) == before


@pytest.mark.parametrize("name", OTHERS)
def test_a_database_of_another_program_is_left_alone(file, name):
    make(file, OTHERS[name])
    refused(file, "is the database of another program: set 'store'")


@pytest.mark.packages
def test_the_databases_of_nss_itself_are_left_alone(store, file):
    subprocess.run(["certutil", "-N", "-d", f"sql:{store}", "--empty-password"], timeout=60, check=True)
    for name in ("cert9.db", "key4.db"):
        (store / name).rename(file)
        refused(file, "is the database of another program")


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_what_another_program_had_begun_when_it_ended_is_left_alone(store, file, mode):
    """SQLite would undo it, or write it into the file, when it opens the database."""
    code = f"""if True:
        import os, sqlite3, sys
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        db.executescript("PRAGMA journal_mode={mode}; PRAGMA cache_size=1; CREATE TABLE mine (x)")
        db.execute("INSERT INTO mine VALUES (?)", (bytes(9000),))
        db.execute("BEGIN")
        db.executemany("INSERT INTO mine VALUES (?)", [(bytes(9000),)] * 100)
        os._exit(0)
    """
    subprocess.run(["python3", "-c", code, file], timeout=60, check=True)
    assert len(list(store.iterdir())) > 1
    file.chmod(0o600)
    refused(file, "is the database of another program")


@pytest.mark.parametrize("content", [b"no database\n" * 1000, b"no\n", bytes(8192), b"SQLite format 3\0" + bytes(84)])
def test_another_file_is_left_alone(file, content):
    file.write_bytes(content)
    file.chmod(0o600)
    refused(file, "is not a store of p11tpm")


def test_the_store_is_a_directory(tmp_path):
    file = tmp_path / "p11tpm.db"
    make(file, OTHERS["NSS"])
    before = state(tmp_path)
    store = Store(str(file))
    for use in (store.tokens, store.version, lambda: store.add_token(a_token())):
        with pytest.raises(Error, match=f"^{file} is not a directory: set 'store'"):
            use()
    assert state(tmp_path) == before


def test_a_store_below_a_file_is_missing(tmp_path):
    """As for a service whose home is /dev/null."""
    file = tmp_path / "p11tpm.db"
    make(file, OTHERS["NSS"])
    before = state(tmp_path)
    store = Store(str(file / "below"))
    assert store.tokens() == []
    with pytest.raises(Error):
        store.add_token(a_token())
    assert state(tmp_path) == before


# -- stores from before there was a mark


@pytest.fixture(params=[1, 2])
def unmarked(request, file) -> Path:
    """A store as it was made by an earlier version, of each format."""
    Store(str(file.parent)).add_token(a_token())
    file.write_bytes(b"")
    db = sqlite3.connect(file)
    for statement in [statement for step in schema.MIGRATIONS[: request.param] for statement in step]:
        db.execute(statement)
    known = {name for _, name, *_ in db.execute("PRAGMA table_info(token)")}
    row = {name: value for name, value in zip(COLUMNS, a_token().values(), strict=True) if name in known}
    db.execute(f"INSERT INTO token ({', '.join(row)}) VALUES ({', '.join('?' for _ in row)})", list(row.values()))
    db.execute("INSERT INTO object (token, uuid) VALUES (1, ?)", (bytes(16),))
    db.execute(f"PRAGMA user_version={request.param}")
    db.commit()
    db.close()
    return file


def mark(file: Path) -> int:
    """The mark, where file(1) looks for it, too."""
    return int.from_bytes(file.read_bytes()[68:72], "big")


def test_a_store_is_marked(file):
    Store(str(file.parent)).add_token(a_token())
    assert mark(file) == schema.APPLICATION_ID
    assert file.read_bytes()[68:72] == b"p11t"


def test_an_unmarked_store_is_marked_by_the_next_write(unmarked):
    store = Store(str(unmarked.parent))
    assert [row.id for row in store.tokens()] == [1]
    store.add([Record(1, bytes(16), {})])
    assert mark(unmarked) == schema.APPLICATION_ID
    assert len(store.find(1, {}, {})) == 2


def test_an_unmarked_store_that_may_only_be_read_stays_one(unmarked, as_nobody, home):
    Store(str(unmarked.parent)).tokens()  # brings format 1 up to date
    copy = home / "p11tpm.db"
    copy.write_bytes(unmarked.read_bytes()[:68] + bytes(4) + unmarked.read_bytes()[72:])
    for path in (copy, home):
        path.chmod(path.stat().st_mode & 0o555 | 0o444)
    before = state(home)
    assert as_nobody(lambda: [row.id for row in Store(str(home)).tokens()]) == [1]
    assert state(home) == before
    home.chmod(0o755)


# -- the command


def test_the_command_and_the_doctor_name_the_file(p11tpm_cli, file):
    make(file, OTHERS["NSS"])
    before = state(file.parent)
    failed(p11tpm_cli("init", "--no-pin"), f"{file} is the database of another program")
    failed(p11tpm_cli("key", "list"), f"{file} is the database of another program")
    done = p11tpm_cli("doctor", "--json")
    found = {one["about"]: one for one in json.loads(done.stdout)}
    assert (done.returncode, done.stderr, found["store"]["state"]) == (1, "", "wrong")
    assert str(file) in found["store"]["text"]
    assert "'store'" in found["store"]["remedy"]
    assert state(file.parent) == before


def test_the_command_and_the_doctor_name_a_store_that_is_a_file(p11tpm_cli, host_env, tmp_path):
    env = host_env(where=tmp_path / "p11tpm.conf")
    failed(p11tpm_cli("init", "--no-pin", env=env), "p11tpm.conf is not a directory: set 'store'")
    done = p11tpm_cli("doctor", "--json", env=env)
    assert done.returncode == 1
    assert "p11tpm.conf is not a directory" in json.loads(done.stdout)[-1]["text"]
    good(p11tpm_cli("init", "--no-pin"))
