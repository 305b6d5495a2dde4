"""The data on disk: tokens, their objects, and the counts of wrong PINs. Knows no PKCS#11 and no TPM.

One SQLite file, ``p11tpm.db``, with a rollback journal; every method that changes something is one transaction.
"""

# ruff: noqa: S608 - queries are put together from the constant texts of this file; values are always parameters
from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.error import Error, GoneError
from p11tpm.host.trylock import TryLock, abandon_locks
from p11tpm.store.database import Database
from p11tpm.store.rows import (
    COLUMNS,
    Record,
    TokenRow,
    check_counts,
    check_identifiers,
    check_object,
    check_token,
    counts_guesses,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from sqlite3 import Connection
    from typing import Any, TypeVar

    Result = TypeVar("Result")

__all__ = ["Record", "Store", "TokenRow"]

_ID_AND_COLUMNS = ", ".join(("id", *COLUMNS))
_MARKS = ", ".join("?" for _ in COLUMNS)
_SETTINGS = ", ".join(f"{name}=?" for name in COLUMNS)
_FEW = (4, 32, 256, 2048)  # objects that a search may look at one by one: the fewer the better
_TURN = 60.0  # seconds for which whoever tries a PIN waits for others who do
_MOST = 250  # attributes in a search; SQLite's limit is a thousand conditions


class Store:
    """Tokens and objects of one directory, shared by all processes of its owner.

    A store that does not exist reads as empty and is made by the first write. Raises CKR_DEVICE_MEMORY if the disk is
    full, CKR_TOKEN_WRITE_PROTECTED, CKR_DEVICE_ERROR if the file is damaged or of a newer version, CKR_GENERAL_ERROR
    if somebody else may write to it, CKR_TOKEN_NOT_PRESENT if the token is gone.
    """

    def __init__(self, directory: str) -> None:
        self.database = Database(directory)
        self._failures: dict[tuple[int, str], tuple[int, ...]] = {}
        self._tokens: tuple[Hashable, list[TokenRow]] = (None, [])

    @property
    def writable(self) -> bool:
        """Whether we may write to the store, or make it, as the file system says now."""
        return self.database.writable

    def version(self) -> Hashable:
        """Return a value that differs after this process or another one wrote, or replaced the store."""
        return self.database.changes()

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        self.database.close()

    def pause(self) -> None:
        """Before a fork: wait, for a second at most, until no other thread is inside SQLite."""
        self.database.pause()

    def resume(self) -> None:
        """In the parent after a fork: let the other threads go on."""
        self.database.resume()

    def abandon(self) -> None:
        """In the child after a fork: forget the parent's connection without closing it, and its locks."""
        self.database.abandon()
        abandon_locks()

    # -- tokens

    def tokens(self) -> list[TokenRow]:
        """Return all tokens, oldest first; they are read again when anybody has written to the store."""
        version = self.version()
        known, tokens = self._tokens
        if version != known:
            query = f"SELECT {_ID_AND_COLUMNS}, id IN (SELECT token FROM failure) FROM token ORDER BY id"
            tokens = self.database.read(lambda db: [_token(row) for row in db.execute(query)], [])
            self._tokens = (version, tokens)
        return list(tokens)

    def token(self, id_: int) -> TokenRow | None:
        """Return one token; None if it is gone."""
        return next((row for row in self.tokens() if row.id == id_), None)

    def next_token_id(self) -> int:
        """Return the identifier that the next token gets if nobody else makes one before."""
        query = "SELECT seq FROM sqlite_sequence WHERE name='token'"
        return self.database.read(lambda db: _numbers(db.execute(query).fetchone() or (0,))[0], 0) + 1

    def add_token(self, row: TokenRow) -> int:
        """Add a token and give its identifier; `row.id` is not looked at."""
        query = f"INSERT INTO token ({', '.join(COLUMNS)}) VALUES ({_MARKS})"
        return self.database.write(lambda db: _identifier(db.execute(query, row.values()).lastrowid))

    def update_token(self, row: TokenRow, **fields: Any) -> None:
        """Change columns of one token, if it is still the one that `row` was read of: see `add`.

        CKR_FUNCTION_FAILED if another program has changed the objects that its PINs open since then.
        """
        unknown = fields.keys() - set(COLUMNS)
        if unknown or not fields:
            raise TypeError(f"no columns of a token: {sorted(unknown)}")
        settings = ", ".join(f"{name}=?" for name in fields)
        query = f"UPDATE token SET {settings} WHERE id=? AND so_private=? AND user_private=?"

        def work(db: Connection) -> None:
            if not db.execute(query, (*fields.values(), row.id, row.so_private, row.user_private)).rowcount:
                why = "another program changed the token's PIN, or what it is bound to, at the same time: try again"
                raise Error(CKR.FUNCTION_FAILED, why)

        self._write_as(row.id, row.uuid, work)

    def replace_token(self, row: TokenRow, was: bytes) -> None:
        """Make a token anew under its identifier, if it `was` this one: other columns, no objects, no wrong PINs."""

        def work(db: Connection) -> None:
            db.execute(f"UPDATE token SET {_SETTINGS} WHERE id=?", (*row.values(), row.id))
            db.execute("DELETE FROM object WHERE token=?", (row.id,))
            db.execute("DELETE FROM failure WHERE token=?", (row.id,))

        self._write_as(row.id, was, work)

    def delete_token(self, id_: int, was: bytes) -> None:
        """Delete a token with all its objects, if it `was` this one, else GoneError; one that is gone is ignored."""
        try:
            self._write_as(id_, was, lambda db: db.execute("DELETE FROM token WHERE id=?", (id_,)).close())
        except GoneError as error:
            if error.rv != CKR.TOKEN_NOT_PRESENT:
                raise

    def _write_as(self, token: int, whose: bytes | None, work: Callable[[Connection], Result]) -> Result:
        """Write if the token is the one with the identifier `whose`, which another one in its place has not: GoneError.

        None is for whoever is not logged in: any token will do.
        """

        def checked(db: Connection) -> Result:
            found = db.execute("SELECT uuid FROM token WHERE id=?", (token,)).fetchone() if whose else ()
            if found is None or whose not in {None, *found}:
                raise GoneError(deleted=found is None)
            return work(db)

        return self.database.write(checked)

    # -- objects

    def find(self, token: int, attributes: dict[int, bytes], exclude: dict[int, bytes]) -> list[int]:
        """Find a token's objects that have all of `attributes` and none of `exclude`, oldest first.

        The cost is that of the rarest attribute's index entries: it does not grow with the number of other objects.
        """
        if len(attributes) + len(exclude) > _MOST:
            raise Error(CKR.ARGUMENTS_BAD, f"a search for more than {_MOST} attributes")
        if any(type_ >> 63 for type_ in attributes):
            return []  # no attribute has such a number, which SQLite's integers do not hold
        return self.database.read(lambda db: _find(db, token, attributes, exclude), [])

    def having(self, ids: list[int], type_: int, value: bytes) -> set[int]:
        """Return those of these objects that have an attribute of this value; the cost is that of `ids` alone."""
        query = "SELECT 1 FROM attribute WHERE object=? AND type=? AND value=?"
        return self.database.read(
            lambda db: {id_ for id_ in ids if db.execute(query, (id_, type_, value)).fetchone()}, set()
        )

    def record(self, id_: int) -> Record | None:
        """Return one object; None if it is gone."""
        return self.database.read(lambda db: _record(db, id_), None)

    def add(self, records: list[Record], whose: bytes | None = None) -> list[int]:
        """Add objects of one token, all or none, and give their identifiers.

        `whose` is the token's identifier as it was at the login: GoneError if it is another one by now.
        """
        token = records[0].token if records else 0
        return self._write_as(token, whose, lambda db: [_add(db, record) for record in records])

    def update(self, record: Record, attributes: dict[int, bytes], mac: bytes | None) -> bool:
        """Set attributes and authentication code of one object; False if it is gone or not as it was in `record`."""
        return self.database.write(lambda db: _update(db, record, attributes, mac))

    def delete(self, records: list[Record]) -> int:
        """Delete objects, all or none, and give how many there were."""
        query = "DELETE FROM object WHERE id=? AND uuid=?"
        rows = [(record.id, record.uuid) for record in records]
        return self.database.write(lambda db: sum(db.execute(query, row).rowcount for row in rows))

    def residents(self, token: int) -> list[Record]:
        """Return a token's keys that stay in the TPM, oldest first."""
        return self._records("SELECT id FROM object WHERE token=? AND resident != 0 ORDER BY id", token)

    def keys_of(self, public: bytes) -> list[Record]:
        """Return the keys with this public area, of whatever token, oldest first: one, and copies of it."""
        return self._records("SELECT id FROM object WHERE tpm_public=? ORDER BY id", public)

    def _records(self, query: str, value: int | bytes) -> list[Record]:
        def work(db: Connection) -> list[Record]:
            found = [_record(db, id_) for (id_,) in db.execute(query, (value,)).fetchall()]
            return [record for record in found if record]

        return self.database.read(work, [])

    def has_public(self, public: bytes) -> bool:
        """Return whether a public area is that of a key, or of a storage root key that is made anew for each use.

        One that is persistent is nobody's own: other programs make the same one from the TCG's template.
        """
        query = """SELECT 1 FROM object WHERE tpm_public=?1
            UNION ALL SELECT 1 FROM token WHERE srk_public=?1 AND srk_handle=0"""
        return self.database.read(lambda db: db.execute(query, (public,)).fetchone(), None) is not None

    def set_resident(self, record: Record, handle: int, was: int | None = None) -> bool:
        """Remember where the TPM keeps a key, 0 for nowhere; False if the object is gone, or no longer where it `was`.

        No such thing as a wrong memory does harm: the key is then loaded when it is used.
        """
        query = "UPDATE object SET resident=? WHERE id=? AND uuid=? AND resident=ifnull(?, resident)"
        row = (handle, record.id, record.uuid, was)
        return self.database.write(lambda db: db.execute(query, row).rowcount == 1)

    # -- wrong PINs

    def try_lock(self) -> TryLock:
        """Return the lock under which one process at a time tries a PIN, and so knows of the others' wrong ones."""
        return TryLock(self.database.directory, _TURN)

    def failures(self, token: int, role: str) -> tuple[int, ...]:
        """Return how many PINs of a role were wrong, and the Unix time of the last one in seconds."""
        kept = self._failures.get((token, role))
        if kept is not None:
            return kept
        query = "SELECT count, last FROM failure WHERE token=? AND role=?"
        return self.database.read(lambda db: _numbers(db.execute(query, (token, role)).fetchone() or (0, 0)), (0, 0))

    def any_failure(self, token: TokenRow | None = None) -> bool:
        """Return whether a PIN of any role of a token, or of any token, was wrong, as far as this process knows."""
        if token is None:
            return bool(self._failures) or any(row.failed for row in self.tokens())
        return token.failed or any(owner == token.id for owner, _ in self._failures)

    def add_failure(self, token: int, role: str, forgiven: int, now: int) -> bool:
        """Count one more wrong PIN, of which `forgiven` earlier ones no longer count; each process's is counted.

        False if it cannot be written down. This process then counts for itself.
        """
        query = """INSERT INTO failure (token, role, count, last) VALUES (?, ?, 1, ?)
            ON CONFLICT (token, role) DO UPDATE SET count=max(0, count - ?) + 1, last=excluded.last"""
        try:
            self.database.write(lambda db: db.execute(query, (token, role, now, forgiven)).close())
        except Error:
            self._failures[token, role] = (max(0, self.failures(token, role)[0] - forgiven) + 1, now)
            return False
        return True

    def clear_failures(self, token: int, role: str) -> None:
        """Forget wrong PINs. Failures that cannot be deleted now go on counting in other processes."""
        self._failures.pop((token, role), None)
        query = "DELETE FROM failure WHERE token=? AND role=?"
        try:
            self.database.write(lambda db: db.execute(query, (token, role)).close())
        except Error:
            return


def _token(row: tuple[Any, ...]) -> TokenRow:
    check_token(row[0], row[1:-1])
    token = TokenRow(**dict(zip(("id", *COLUMNS, "failed"), row, strict=True)))
    if isinstance(token.label, bytes):
        token.label = token.label.decode(errors="surrogateescape")
    token.user_pin_set, token.failed = bool(token.user_pin_set), bool(token.failed)
    token.no_pin = bool(token.no_pin) and not counts_guesses(token.user_public)
    return token


def _numbers(row: tuple[Any, ...]) -> tuple[int, ...]:
    check_counts(row)
    return row


def _identifier(row: int | None) -> int:
    if row is None:
        raise Error(CKR.GENERAL_ERROR, "the store gave no identifier for a new row")
    return row


def _record(db: Connection, id_: int) -> Record | None:
    query = "SELECT token, uuid, tpm_public, tpm_private, mac, resident, secret FROM object WHERE id=?"
    row = db.execute(query, (id_,)).fetchone()
    if row is None:
        return None
    token, uuid, public, private, mac, resident, secret = row
    attributes = dict(db.execute("SELECT type, value FROM attribute WHERE object=?", (id_,)).fetchall())
    check_object(row[:-1], secret, attributes)
    return Record(token, uuid, attributes, public, private, mac, id_, resident, secret=secret)


def _add(db: Connection, record: Record) -> int:
    row = (record.token, record.uuid, record.tpm_public, record.tpm_private, record.mac, record.secret)
    query = "INSERT INTO object (token, uuid, tpm_public, tpm_private, mac, secret) VALUES (?, ?, ?, ?, ?, ?)"
    id_ = _identifier(db.execute(query, row).lastrowid)
    _set(db, id_, record.token, record.attributes)
    return id_


def _set(db: Connection, id_: int, token: int, attributes: dict[int, bytes]) -> None:
    query = "INSERT OR REPLACE INTO attribute (object, type, token, value) VALUES (?, ?, ?, ?)"
    db.executemany(query, [(id_, type_, token, value) for type_, value in attributes.items()])


def _update(db: Connection, record: Record, attributes: dict[int, bytes], mac: bytes | None) -> bool:
    query = "UPDATE object SET mac=? WHERE id=? AND uuid=? AND mac IS ?"
    if not db.execute(query, (mac, record.id, record.uuid, record.mac)).rowcount:
        return False
    _set(db, record.id, record.token, attributes)
    return True


def _rarest(db: Connection, token: int, attributes: dict[int, bytes]) -> tuple[int, bytes]:
    """Find an attribute that few objects have: each is counted up to a few, then up to more, and never to the end."""
    query = "SELECT count(*) FROM (SELECT 1 FROM attribute WHERE type=? AND value=? AND token=? LIMIT ?)"
    by_length = sorted(attributes.items(), key=lambda item: -len(item[1]))  # long values are mostly names
    for few in _FEW:
        for pair in by_length:
            (count,) = db.execute(query, (*pair, token, few + 1)).fetchone()
            if count <= few:
                return pair
    return by_length[0]


def _find(db: Connection, token: int, attributes: dict[int, bytes], exclude: dict[int, bytes]) -> list[int]:
    # A scalar subquery is one step in the primary key, and the planner cannot turn the search round.
    of_object = "(SELECT value FROM attribute WHERE object=o.{} AND type=?)"
    if attributes:
        first = _rarest(db, token, attributes) if len(attributes) > 1 else next(iter(attributes.items()))
        rest = [pair for pair in attributes.items() if pair != first]
        id_, start = "object", "SELECT o.object FROM attribute o WHERE o.type=? AND o.value=? AND o.token=?"
        values: list[object] = [*first, token]
    else:
        rest, id_, start, values = [], "id", "SELECT o.id FROM object o WHERE o.token=?", [token]
    having, lacking = f" AND {of_object.format(id_)} = ?", f" AND {of_object.format(id_)} IS NOT ?"
    query = f"{start}{having * len(rest)}{lacking * len(exclude)} ORDER BY o.{id_}"
    for pair in (*rest, *exclude.items()):
        values += pair
    found = [row[0] for row in db.execute(query, values).fetchall()]
    check_identifiers(found[:1] + found[-1:])  # in their order, numbers come before texts
    return found
