"""The tables of the store, and the steps from one version of them to the next.

A step is a list of statements and is never changed once it was released: a change is a new step. The version is
SQLite's `user_version`, which is part of the transaction that makes the step. Its `application_id` tells a store from
the databases of other programs. Formats 1 and 2 began without it: it is not a step, which would keep older programs
out, and a store that only may be read would never get it. The first write to such a store adds it.
"""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.error import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from sqlite3 import Connection

APPLICATION_ID = 0x70313174  # "p11t"; in the header of the file, https://www.sqlite.org/fileformat.html clause 1.3.10
_TABLES = {"token", "object", "attribute", "failure"}

# An identifier is never used again (AUTOINCREMENT), so what a program remembers never names another object.
# An attribute repeats its object's token, which lets one index answer a search whatever other tokens hold.
MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """CREATE TABLE token (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            uuid BLOB NOT NULL UNIQUE,
            label TEXT NOT NULL,
            serial TEXT NOT NULL,
            salt BLOB NOT NULL,
            no_pin INTEGER NOT NULL,
            user_pin_set INTEGER NOT NULL,
            srk_handle INTEGER NOT NULL,
            srk_public BLOB NOT NULL,
            so_public BLOB NOT NULL,
            so_private BLOB NOT NULL,
            user_public BLOB NOT NULL,
            user_private BLOB NOT NULL,
            tpm TEXT NOT NULL,
            capabilities TEXT NOT NULL,
            created INTEGER NOT NULL
        )""",
        """CREATE TABLE object (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            token INTEGER NOT NULL REFERENCES token ON DELETE CASCADE,
            uuid BLOB NOT NULL,
            tpm_public BLOB,
            tpm_private BLOB,
            resident INTEGER NOT NULL DEFAULT 0,
            mac BLOB,
            UNIQUE (token, id)
        )""",
        """CREATE TABLE attribute (
            object INTEGER NOT NULL,
            type INTEGER NOT NULL,
            token INTEGER NOT NULL,
            value BLOB NOT NULL,
            PRIMARY KEY (object, type),
            FOREIGN KEY (token, object) REFERENCES object (token, id) ON DELETE CASCADE
        ) WITHOUT ROWID""",
        "CREATE INDEX attribute_value ON attribute (type, value, token, object)",
        """CREATE TABLE failure (
            token INTEGER NOT NULL REFERENCES token ON DELETE CASCADE,
            role TEXT NOT NULL,
            count INTEGER NOT NULL,
            last INTEGER NOT NULL,
            PRIMARY KEY (token, role)
        ) WITHOUT ROWID""",
    ),
    # The value of a secret key, encrypted under the token's secret
    ("ALTER TABLE object ADD COLUMN secret BLOB",),
    # What a token is bound to, and what opens it wherever the machine is
    (
        "ALTER TABLE token ADD COLUMN policy TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE token ADD COLUMN ticket BLOB NOT NULL DEFAULT x''",
        "ALTER TABLE token ADD COLUMN recovery_public BLOB NOT NULL DEFAULT x''",
        "ALTER TABLE token ADD COLUMN recovery_private BLOB NOT NULL DEFAULT x''",
    ),
)


def version(connection: Connection) -> int:
    """Return the schema's version, 0 for an empty file; CKR_DEVICE_ERROR if a newer p11tpm wrote it."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > len(MIGRATIONS):
        raise Error(
            CKR.DEVICE_ERROR,
            f"a newer p11tpm wrote the store (format {found}, this one knows {len(MIGRATIONS)}): use that version",
        )
    return int(found)


def is_store(connection: Connection) -> bool:
    """Return whether a database is a store, or an empty file that may become one."""
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    if mark:
        return bool(mark == APPLICATION_ID)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type='table'")}
    return not pages or (found > 0 and tables >= _TABLES)


def check(connection: Connection) -> None:
    """Refuse a database that does more than keep rows: CKR_DEVICE_ERROR. No store has triggers or views."""
    found = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%' LIMIT 1"
    ).fetchone()
    if found:
        why = f"the store has {found[0]!a}, which is neither a table nor an index: restore a backup"
        raise Error(CKR.DEVICE_ERROR, why)


def migrate(connection: Connection) -> None:
    """Update the tables and the mark of a store, within the transaction that is open."""
    found = version(connection)
    check(connection)
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    if not mark:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    for number, step in enumerate(MIGRATIONS[found:], found + 1):
        for statement in step:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={number}")
