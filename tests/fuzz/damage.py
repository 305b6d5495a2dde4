"""Damage to a store: what a broken disk, an old backup or a hostile hand makes of its file.

Each damage has a name, and is the same in each run.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from p11tpm.ck import CKA, name
from p11tpm.store.database import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Change = Callable[[Path], None]

PAGE = 4096  # bytes: SQLite's usual size
HUGE = 70_000  # bytes of a value that nobody writes, and more than a TPM2B can have

# What is odd in a column, as SQL: SQLite takes any type, and converts text to a number where a column wants one
ODD = {
    "nothing": "NULL",
    "0": "0",
    "-1": "-1",
    "the largest number": "9223372036854775807",
    "a fraction": "0.5",
    "text": "'odd'",
    "text that is not UTF-8": "CAST(x'ff80' AS TEXT)",
    "no bytes": "x''",
    "a byte": "x'01'",
    "many bytes": f"zeroblob({HUGE})",
    "long text": f"hex(zeroblob({HUGE}))",
}
NUMBERS = {what: ODD[what] for what in ("0", "-1", "the largest number")}  # SQLite takes nothing else for a row's
TABLES = {
    "token": (
        *("id", "uuid", "label", "serial", "salt", "no_pin", "user_pin_set", "srk_handle", "srk_public", "so_public"),
        *("so_private", "user_public", "user_private", "tpm", "capabilities", "created"),
    ),
    "object": ("id", "token", "uuid", "tpm_public", "tpm_private", "resident", "mac", "secret"),
    "attribute": ("object", "type", "token", "value"),
    "failure": ("token", "role", "count", "last"),
    "sqlite_sequence": ("name", "seq"),
}
SWAPPED = {  # columns that a row may have of another one; those that are unique are not swapped but given to both
    "token": ("label", "serial", "salt", "srk_public", "so_public", "so_private", "user_public", "user_private"),
    "object": ("token", "uuid", "tpm_public", "tpm_private", "resident", "mac", "secret"),
}
FORGED = {  # what somebody would like an attribute to say
    **dict.fromkeys(("PRIVATE", "SENSITIVE", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "ALWAYS_AUTHENTICATE"), "x'00'"),
    **dict.fromkeys(("EXTRACTABLE", "DECRYPT", "DERIVE", "UNWRAP", "WRAP", "SIGN", "TRUSTED", "TOKEN"), "x'01'"),
    **dict.fromkeys(("CLASS", "KEY_TYPE"), "x'0000000000000000'"),
    **dict.fromkeys(("LABEL", "ID", "VALUE", "EC_POINT", "EC_PARAMS", "MODULUS", "PUBLIC_KEY_INFO"), "x'0102'"),
    **dict.fromkeys(("ALLOWED_MECHANISMS", "UNIQUE_ID", "START_DATE"), "x'3230'"),
    **dict.fromkeys(("MODIFIABLE", "DESTROYABLE", "COPYABLE", "LOCAL"), "x'02'"),
}
_TRAPS = (  # what a trigger would do
    "DELETE FROM object WHERE id != NEW.{key}",
    "DELETE FROM failure",
    "UPDATE token SET user_pin_set=0, no_pin=1",
    "UPDATE attribute SET value=x'00' WHERE type=259",  # CKA_SENSITIVE
    "SELECT RAISE(IGNORE)",
    "SELECT RAISE(ABORT, 'no')",
    "INSERT INTO failure SELECT id, 'USER', 99, 1 FROM token",
    "SELECT randomblob(1000000000)",
)
_KEYS = {"object": "id", "attribute": "object", "token": "id", "failure": "token"}
VIEWS = {  # views in the place of tables
    "a view for tokens": "ALTER TABLE token RENAME TO t; CREATE VIEW token AS SELECT * FROM t",
    "a view for objects": "ALTER TABLE object RENAME TO t; CREATE VIEW object AS SELECT * FROM t",
    "a view for attributes": "ALTER TABLE attribute RENAME TO t; CREATE VIEW attribute AS "
    "SELECT object, type, token, CASE type WHEN 259 THEN x'00' ELSE value END AS value FROM t",
    "a view for failures": "ALTER TABLE failure RENAME TO t; CREATE VIEW failure AS SELECT * FROM t WHERE 0",
    "a view without end": "ALTER TABLE token RENAME TO t; CREATE VIEW token AS WITH RECURSIVE n(x) AS "
    "(SELECT 1 UNION ALL SELECT x+1 FROM n) SELECT t.* FROM t, n",
    "a view of nothing": "DROP TABLE attribute; CREATE VIEW attribute AS SELECT 1 AS x",
    "a view beside": "CREATE VIEW more AS SELECT * FROM token",
    "a virtual table": "ALTER TABLE failure RENAME TO t; "
    "CREATE VIRTUAL TABLE failure USING fts4(token, role, count, last)",
}
SCHEMAS = {  # statements that make the schema another one
    "a table beside": "CREATE TABLE more (x); INSERT INTO more VALUES (1)",
    "an index beside": "CREATE INDEX more ON object (uuid)",
    "an index on an expression": "CREATE INDEX more ON object (hex(uuid))",
    "no index": "DROP INDEX attribute_value",
    **{f"no table {table}": f"DROP TABLE {table}" for table in _KEYS},
    **{f"no table {table}, but an empty one": f"DROP TABLE {table}; CREATE TABLE {table} (x)" for table in _KEYS},
    **{f"a column more in {table}": f"ALTER TABLE {table} ADD COLUMN more" for table in _KEYS},
    "a column that has to be set": "ALTER TABLE object ADD COLUMN more NOT NULL DEFAULT 1",
    "a column that is made": "ALTER TABLE object ADD COLUMN more AS (hex(uuid))",
    **{
        f"no column {column} in {table}": f"DROP INDEX attribute_value; ALTER TABLE {table} RENAME COLUMN {column} TO x"
        for table, column in (
            *(("token", "uuid"), ("token", "label"), ("token", "user_private"), ("object", "mac"), ("object", "uuid")),
            *(("object", "secret"), ("attribute", "value"), ("attribute", "type"), ("failure", "count")),
        )
    },
    "columns of one name for another": "ALTER TABLE token RENAME COLUMN so_private TO x; "
    "ALTER TABLE token RENAME COLUMN user_private TO so_private; ALTER TABLE token RENAME COLUMN x TO user_private",
    "tables of one name for another": "ALTER TABLE failure RENAME TO x; ALTER TABLE token RENAME TO failure; "
    "ALTER TABLE x RENAME TO token",
    "a constraint that is never met": "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET "
    "sql=replace(sql, 'created INTEGER NOT NULL', 'created INTEGER NOT NULL CHECK (0)') WHERE name='token'",
    "a schema of nonsense": "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql='CREATE TABLE nonsense'",
    "a schema that is empty": "PRAGMA writable_schema=ON; DELETE FROM sqlite_schema",
    "a root page that is not there": "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET rootpage=9999",
    "one root page for all": "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET rootpage=2 WHERE rootpage > 2",
    "two tokens with one identifier": "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET "
    "sql=replace(sql, 'NOT NULL UNIQUE', 'NOT NULL') WHERE name='token'; "
    "DELETE FROM sqlite_schema WHERE name='sqlite_autoindex_token_1'",
    "no objects": "DELETE FROM object",
    "no attributes": "DELETE FROM attribute",
    "no tokens": "DELETE FROM token",
    "nothing but attributes": "DELETE FROM token; DELETE FROM object",
    "objects of no token": "UPDATE object SET token=99",
    "objects of the other token": "UPDATE object SET token=3-token; UPDATE attribute SET token=3-token",
    "attributes of no object": "UPDATE attribute SET object=object+1000",
    "the last identifier": "UPDATE sqlite_sequence SET seq=9223372036854775807",
    "identifiers from the beginning": "DELETE FROM sqlite_sequence",
    **{f"format {number}": f"PRAGMA user_version={number}" for number in (0, 1, 4, 2**31 - 1, -1)},
    **{f"the mark {number}": f"PRAGMA application_id={number}" for number in (0, 1, -1)},
    "a write-ahead log": "PRAGMA journal_mode=WAL",
    "many wrong PINs": "INSERT OR REPLACE INTO failure SELECT id, 'USER', 1000, 1 FROM token",
    "wrong PINs of the future": "INSERT OR REPLACE INTO failure SELECT id, 'USER', 4, 99999999999 FROM token",
    "fewer than no wrong PINs": "INSERT OR REPLACE INTO failure SELECT id, 'USER', -1000, 1 FROM token",
    "wrong PINs of nobody": "INSERT INTO failure VALUES (99, 'X', 1, 1)",
    "another token in front": "UPDATE token SET id=id+10 WHERE id=1",
}


def _written(content: bytes, suffix: str = "") -> Change:
    def change(store: Path) -> None:
        path = store / (NAME + suffix)
        path.write_bytes(content)
        path.chmod(0o600)

    return change


def _executed(script: str) -> Change:
    def change(store: Path) -> None:
        with closing(sqlite3.connect(store / NAME, isolation_level=None)) as db:
            db.execute("PRAGMA ignore_check_constraints=ON")
            for statement in filter(None, script.split("; ")):
                db.execute(statement)

    return change


def _of_bytes(store: Path, _older: list[bytes]) -> Iterator[tuple[str, Change]]:
    """Flip bits, most of them where there is something, and cut the file."""
    content = (store / NAME).read_bytes()
    dice = random.Random("damage")
    used = [place for place, byte in enumerate(content) if byte]
    places = list(range(16, 96, 2)) + [dice.choice(used) for _ in range(220)]
    for place in places:
        bit = 1 << dice.randrange(8)
        changed = content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
        yield f"bit {bit:#04x} of byte {place}", _written(changed)
    for size in (0, 1, 15, 16, 99, 100, 101, 512, *(dice.randrange(len(content)) for _ in range(20))):
        yield f"cut after {size} bytes", _written(content[:size])
    for version in (0, 2, 3, 255):
        yield f"a header of file format {version}", _written(content[:18] + bytes([version, version]) + content[20:])


def _of_pages(store: Path, _older: list[bytes]) -> Iterator[tuple[str, Change]]:
    """Zero, swap, repeat and cut pages."""
    content = (store / NAME).read_bytes()
    pages = [content[at : at + PAGE] for at in range(0, len(content), PAGE)]
    dice = random.Random("pages")
    for number in range(len(pages)):
        yield f"page {number} of zeros", _written(b"".join([*pages[:number], bytes(PAGE), *pages[number + 1 :]]))
        yield f"no page {number}", _written(b"".join(pages[:number] + pages[number + 1 :]))
        yield f"the end before page {number}", _written(b"".join(pages[:number]))
        other = dice.randrange(1, len(pages))
        swapped = list(pages)
        swapped[number], swapped[other] = swapped[other], swapped[number]
        yield f"page {number} for page {other}", _written(b"".join(swapped))


def _of_cells(_store: Path, _older: list[bytes]) -> Iterator[tuple[str, Change]]:
    """Put into every column what is odd, and what is another row's."""
    for table, columns in TABLES.items():
        for column in columns:
            for what, value in (NUMBERS if column == "id" else ODD).items():
                yield f"{what} in {table}.{column}", _executed(_loose(f"UPDATE OR IGNORE {table} SET {column}={value}"))
            if column != "id":
                as_text = f"UPDATE OR IGNORE {table} SET {column}=hex({column})"
                yield f"text for bytes in {table}.{column}", _executed(_loose(as_text))
    for table, columns in SWAPPED.items():
        for column in columns:
            turned = f"(SELECT other.{column} FROM {table} AS other WHERE other.id != {table}.id ORDER BY {{}})"
            for order in ("other.id", "other.id DESC") if table == "object" else ("other.id",):
                script = f"UPDATE OR IGNORE {table} SET {column}={turned.format(order)}"
                yield f"{table}.{column} of another one by {order}", _executed(script)
    for column in ("mac", "tpm_public", "tpm_private", "secret"):
        yield f"a byte more in each {column}", _executed(f"UPDATE object SET {column}=CAST(x'ff' || {column} AS BLOB)")


def _of_attributes(store: Path, _older: list[bytes]) -> Iterator[tuple[str, Change]]:
    """Put into attributes what is another object's, or what somebody would like, and leave some out."""
    with closing(sqlite3.connect(store / NAME)) as db:
        objects = [id_ for (id_,) in db.execute("SELECT id FROM object ORDER BY id")]
        attributes = db.execute("SELECT DISTINCT type FROM attribute ORDER BY type").fetchall()
    for (type_,) in attributes:
        which = f"WHERE type={type_}"
        of_another = f"(SELECT value FROM attribute AS other {which} AND other.object != attribute.object)"
        another = f"UPDATE attribute SET value=ifnull({of_another}, x'00') {which}"
        yield f"{name(CKA, type_)} of another object", _executed(another)
        yield f"no {name(CKA, type_)}", _executed(f"DELETE FROM attribute {which}")
    for short, value in FORGED.items():
        type_ = getattr(CKA, short)
        forged = f"SELECT id, {type_}, token, {value} FROM object"
        yield f"{short} is {value}", _executed(f"INSERT OR REPLACE INTO attribute {forged}")
        yield (
            f"{short} is {value} and there are no codes",
            _executed(f"INSERT OR REPLACE INTO attribute {forged}; UPDATE object SET mac=NULL"),
        )
    for id_ in objects:
        yield f"no attributes of {id_}", _executed(f"DELETE FROM attribute WHERE object={id_}")
        yield f"unknown attributes of {id_}", _executed(f"UPDATE attribute SET type=-type WHERE object={id_}")


def _loose(statement: str) -> str:
    """Have a column have NULL and whatever it is not to have."""
    no_longer = "UPDATE sqlite_schema SET sql=replace(sql, ' NOT NULL', '') WHERE name NOT LIKE 'sqlite%'"
    return f"PRAGMA writable_schema=ON; {no_longer}; PRAGMA writable_schema=RESET; {statement}"


def _of_schemas(_store: Path, _older: list[bytes]) -> Iterator[tuple[str, Change]]:
    for what, script in SCHEMAS.items():
        yield what, _executed(script)


def triggers() -> Iterator[tuple[str, Change]]:
    """Return triggers that would do something when a row is added or changed, and views in the place of tables."""
    for what, script in VIEWS.items():
        yield what, _executed(script)
    for table, key in _KEYS.items():
        for event in ("BEFORE INSERT", "AFTER INSERT", "AFTER UPDATE"):
            for trap in _TRAPS:
                body = trap.format(key=key)
                trigger = f"CREATE TRIGGER trap {event} ON {table} BEGIN {body}"
                yield f"{event} ON {table} {body}", _trapped(f"{trigger}; END")


def _trapped(statement: str) -> Change:
    def change(store: Path) -> None:
        with closing(sqlite3.connect(store / NAME)) as db:
            db.execute(statement)

    return change


def _of_copies(store: Path, older: list[bytes]) -> Iterator[tuple[str, Change]]:
    """Put back the file as it was, whole or in part."""
    content = (store / NAME).read_bytes()
    for number, old in enumerate(older):
        yield f"the file as it was {number}", _written(old)
        for row in ("object", "token", "attribute"):
            yield f"{row} rows as they were {number}", _with_rows(old, row)
        for page in range(1, len(old) // PAGE, 3):
            at = page * PAGE
            yield f"page {page} as it was {number}", _written(content[:at] + old[at : at + PAGE] + content[at + PAGE :])


def _with_rows(old: bytes, table: str) -> Change:
    def change(store: Path) -> None:
        copy = store.parent / "older.db"
        copy.write_bytes(old)
        with closing(sqlite3.connect(store / NAME, isolation_level=None)) as db:
            db.execute("ATTACH ? AS old", (str(copy),))
            db.execute(f"INSERT OR REPLACE INTO main.{table} SELECT * FROM old.{table}")

    return change


def _of_companions(store: Path, older: list[bytes]) -> Iterator[tuple[str, Change]]:
    """Put files beside the store that SQLite takes for its own."""
    dice, journal = random.Random("companions"), _journal(store)
    foreign = {
        "empty": b"",
        "of zeros": bytes(PAGE),
        "of nonsense": dice.randbytes(3 * PAGE),
        "of an older state": journal,
        "cut": journal[: len(journal) // 2],
        "with a flipped header": bytes([journal[0] ^ 1]) + journal[1:],
        "with a flipped page": journal[:600] + bytes([journal[600] ^ 1]) + journal[601:],
        "that counts too many pages": journal[:8] + b"\xff\xff\xff\xff" + journal[12:],
        "that counts no pages": journal[:8] + bytes(4) + journal[12:],
        "of another page size": journal[:24] + (512).to_bytes(4, "big") + journal[28:],
        "that names a master journal": journal + b"/etc/passwd" + bytes(8) + bytes.fromhex("d9d505f920a163d7"),
        "that is a database": older[0],
        "of many bytes": bytes(HUGE),
    }
    for what, content in foreign.items():
        for suffix in ("-journal", "-wal", "-shm"):
            yield f"a {suffix} {what}", _written(content, suffix)
    for suffix in ("-journal", "-wal"):
        yield f"a {suffix} that is a directory", lambda store, suffix=suffix: (store / (NAME + suffix)).mkdir()
        yield (
            f"a {suffix} that is a link",
            lambda store, suffix=suffix: (store / (NAME + suffix)).symlink_to("/etc/passwd"),
        )


def _journal(store: Path) -> bytes:
    """Return the journal of a transaction that is under way."""
    copy = store.parent / "of-journal.db"
    shutil.copy(store / NAME, copy)
    with closing(sqlite3.connect(copy, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size=1")
        db.execute("BEGIN")
        db.execute("UPDATE object SET mac=NULL")
        db.execute("UPDATE attribute SET value=zeroblob(5000)")
        return copy.with_name(f"{copy.name}-journal").read_bytes()


# Each gives damages of one kind: for the directory of a store, and its file as it was before
KINDS = {
    "bytes": _of_bytes,
    "pages": _of_pages,
    "cells": _of_cells,
    "attributes": _of_attributes,
    "schemas": _of_schemas,
    "copies": _of_copies,
    "companions": _of_companions,
}


def restore(pristine: Path, store: Path) -> None:
    """Make a store what it was before any damage."""
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(pristine, store)
