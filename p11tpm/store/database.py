"""The SQLite file of a store: opening and creating it, transactions, and what SQLite's errors mean."""

from __future__ import annotations

import _functools  # type: ignore[import-not-found]
import _thread
import posix
import sys
from time import monotonic, sleep, time_ns

from p11tpm.ck import CKR
from p11tpm.error import Error, rv_of
from p11tpm.host import descriptor, files, system
from p11tpm.host.imports import Late, import_lock
from p11tpm.store import schema
from p11tpm.store.rows import DamagedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import gc
    from collections.abc import Callable
    from sqlite3 import Connection
    from typing import Any, TypeVar

    from p11tpm.host.descriptor import Descriptor

    Result = TypeVar("Result")
else:
    gc = Late("gc")

NAME = "p11tpm.db"
PATIENCE = 30.0  # seconds for which a transaction waits for its turn
_COMPANIONS = ("-journal", "-wal", "-shm")  # https://www.sqlite.org/tempfiles.html
_BUSY_TIMEOUT = 30_000  # milliseconds for which one that has begun to write waits for readers to end
_FORK_PATIENCE = 1.0  # seconds for which a fork waits for a transaction to end

# EXTRA is FULL, and syncs the directory after a commit too: a change that was answered with CKR_OK outlives a power
# cut. secure_delete: a destroyed key does not stay in a free page of the file.
_PRAGMAS = """
PRAGMA foreign_keys=ON;
PRAGMA trusted_schema=OFF;
PRAGMA synchronous=EXTRA;
PRAGMA secure_delete=ON;
"""

# Nanoseconds after which a file's next change cannot get the time of its last one; the coarsest clock has 2 s
_QUIET = 3_000_000_000
_NEVER = (0, 0)

_FULL, _BUSY, _READONLY, _NOMEM, _FOREIGN_KEY, _NOT_A_DATABASE, _CORRUPT = 13, 5, 8, 7, 787, 26, 11
_OTHER_TABLES = (CKR.DEVICE_ERROR, "its tables are not those of a store: restore a backup")
_MEANINGS = {  # primary and extended result codes of SQLite, https://www.sqlite.org/rescode.html
    1: _OTHER_TABLES,
    3: (CKR.TOKEN_WRITE_PROTECTED, "no permission"),
    _BUSY: (CKR.FUNCTION_FAILED, "another program has kept it locked for too long"),
    _NOMEM: (CKR.HOST_MEMORY, "no memory"),
    _READONLY: (CKR.TOKEN_WRITE_PROTECTED, "it cannot be written to"),
    776: (CKR.DEVICE_ERROR, "a write was interrupted: open it once as a user who may write to it"),
    1032: (CKR.DEVICE_ERROR, "the file was replaced while it was written to: try again"),
    10: (CKR.DEVICE_ERROR, "input/output error of its disk"),
    3082: (CKR.HOST_MEMORY, "no memory"),
    _CORRUPT: (CKR.DEVICE_ERROR, "the file is damaged: restore a backup"),
    _FULL: (CKR.DEVICE_MEMORY, "its disk is full"),
    14: (CKR.DEVICE_ERROR, "the file cannot be opened"),
    1544: (CKR.TOKEN_WRITE_PROTECTED, "its directory cannot be written to"),
    18: (CKR.DEVICE_MEMORY, "a value is too long"),
    19: _OTHER_TABLES,
    20: _OTHER_TABLES,
    _FOREIGN_KEY: (CKR.TOKEN_NOT_PRESENT, "the token was deleted"),
    _NOT_A_DATABASE: (CKR.DEVICE_ERROR, "the file is damaged, or is not a store of p11tpm: restore a backup"),
}

_abandoned: list[object] = []
_without_locks: set[tuple[int, int]] = set()  # files on which SQLite takes locks for granted that the host has dropped


class Database:
    """The connection of a process to one SQLite file, which may be missing, and may be replaced at any time.

    Thread safe: one transaction at a time. A file that was deleted or replaced by another one is noticed by the next
    transaction (one stat() each), which goes to the new file.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.path = f"{directory}/{NAME}"
        self._companions = [self.path + suffix for suffix in _COMPANIONS]
        self._make_locks()
        self._connection: Connection | None = None
        self._descriptor: Descriptor | None = None  # of the connection
        self._file = (0, 0)
        self._version = 0
        self._opened = 0
        self._status = self._quiet_at = _NEVER
        self._data_version = 0

    def _make_locks(self) -> None:
        self._gate = _thread.allocate_lock()  # who waits for the lock: a fork is not overtaken again and again
        self._lock = _thread.RLock()
        self._paused = False

    @property
    def writable(self) -> bool:
        """Whether we may write to the file, or make it, as the file system says now."""
        return files.may_write(self.path)

    def read(self, work: Callable[[Connection], Result], empty: Result) -> Result:
        """Return what `work` reads from one state of the database, or `empty` if there is none; creates nothing."""

        def transaction() -> Result:
            connection = self._current()
            self._check_companions()
            if connection is None or not (self._version or self._look(connection)):
                return empty
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                _end(connection)

        return self._alone(transaction)

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Return the result of `work`, after its changes are on the disk as one; nothing is written if it raises."""

        def transaction() -> Result:
            connection = self._current()
            self._check_companions()
            if not self.writable:
                raise Error(CKR.TOKEN_WRITE_PROTECTED, f"the store {self.path} cannot be written to")
            connection = connection or self._create()
            result = self._written(connection, work)
            self._version = len(schema.MIGRATIONS)
            return result

        return self._alone(transaction)

    def _written(self, connection: Connection, work: Callable[[Connection], Result]) -> Result:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT}")
            schema.migrate(connection)
            result = work(connection)
            self._require_ours()
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - readers were waited for long enough, and it is not tried again
            raise self._meant(error) from None
        finally:
            self._end_writing(connection)
        return result

    def _require_ours(self) -> None:
        if not self._is_ours():
            raise Error(CKR.DEVICE_ERROR, f"the program has closed the store {self.path} while it was written to")

    def _end_writing(self, connection: Connection) -> None:
        if self._is_ours():
            _end(connection)
            connection.execute("PRAGMA busy_timeout=0")
        else:
            _without_locks.add(self._file)
            self.close()

    def changes(self) -> tuple[int, int, int]:
        """Return a value that differs after any process wrote, at the cost of one stat() if none did lately."""

        def look() -> tuple[int, int, int]:
            connection = self._current()
            if connection is None:
                return (0, 0, 0)
            if self._status != self._quiet_at:
                self._check_companions()
                (self._data_version,) = connection.execute("PRAGMA data_version").fetchone()
                quiet = time_ns() - max(self._status) > _QUIET
                self._quiet_at = self._status if quiet else _NEVER
            return (self._opened, self._data_version, connection.total_changes)

        return self._alone(look)

    def _alone(self, work: Callable[[], Result]) -> Result:
        with self._gate:
            self._lock.acquire()
        try:
            return self._patiently(work)
        finally:
            self._lock.release()

    def _patiently(self, work: Callable[[], Result]) -> Result:
        """Run some work, again and again while other processes keep it from starting.

        SQLite's own waiting asks every 100 ms at last, so that busy programs starve the others for seconds; this asks
        every few milliseconds, at odd times. A transaction that will write never starts as a reading one, which could
        not be waited for (two of them would wait for each other).
        """
        deadline = 0.0
        while True:
            try:
                return work()
            except Exception as error:  # noqa: BLE001 - sqlite3.Error, and sqlite3 may not be imported
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != _BUSY or 0 < deadline < monotonic():
                    raise self._meant(error) from None
            deadline = deadline or monotonic() + PATIENCE
            sleep(posix.urandom(1)[0] / 64_000)

    def close(self) -> None:
        """Close the connection, or forget it if the host has closed its file; the next transaction opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                self._discard(connection)

    def _discard(self, connection: Connection) -> None:
        if self._is_ours():
            connection.close()
        else:
            _keep_for_ever(connection)

    def _is_ours(self) -> bool:
        return self._descriptor is not None and self._descriptor.is_ours()

    def pause(self) -> None:
        """Before a fork: let the transaction of another thread end, so that the child finds SQLite unlocked."""
        if self._gate.acquire(timeout=_FORK_PATIENCE):
            self._paused = self._lock.acquire(timeout=_FORK_PATIENCE)
            if not self._paused:
                self._gate.release()

    def resume(self) -> None:
        """In the parent after a fork: let the other threads go on."""
        if self._paused:
            self._paused = False
            self._lock.release()
            self._gate.release()

    def abandon(self) -> None:
        """In the child after a fork: forget the connection without closing it, which is the parent's."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _abandoned.append(connection)
            if not self._paused:
                _keep_for_ever(connection)
        self._make_locks()

    # -- opening

    def _current(self) -> Connection | None:
        try:
            status = posix.lstat(self.path)
        except FileNotFoundError:
            self.close()
            return None
        except NotADirectoryError:
            self.close()
            if not system.exists(self.directory):  # a file is above it: for a user whose home is /dev/null
                return None
            why = f"{self.directory} is not a directory: set 'store' to the one that {NAME} is to be in"
            raise Error(CKR.DEVICE_ERROR, why) from None
        file = (status.st_dev, status.st_ino)
        self._status = (status.st_mtime_ns, status.st_ctime_ns)
        if self._connection is None or file != self._file or not self._is_ours():
            self.close()
            self._file = file
            self._connection = self._open(file)
            self._opened += 1
            self._quiet_at = _NEVER
        return self._connection

    def _open(self, file: tuple[int, int]) -> Connection:
        if file in _without_locks:
            why = "the program had closed it while it was written to: start the program again"
            raise Error(CKR.DEVICE_ERROR, f"the store {self.path} is not used: {why}")
        files.check_directory(self.directory)
        files.check_file(self.path)
        self._check_companions()
        known = self._is_known()
        expected = descriptor.next_number(self.directory)
        connection = self._connected("mode=rw")  # creates nothing, and is read-only where the file is
        self._descriptor = descriptor.find(file, expected)
        if self._descriptor is None:
            connection.close()
            raise Error(CKR.DEVICE_ERROR, f"the store {self.path} was replaced while it was opened: try again")
        try:
            connection.executescript(_PRAGMAS)
            if not known:
                self._require_store(connection)
            self._look(connection)
        except BaseException:
            self._discard(connection)
            raise
        return connection

    def _check_companions(self) -> None:
        """Refuse anything but a file in the place of one that SQLite opens as soon as it exists: it would wait."""
        for path in self._companions:
            if posix.access(path, posix.F_OK, follow_symlinks=False):
                try:
                    files.check_file(path)
                except FileNotFoundError:  # a journal that has just gone
                    continue

    def _connected(self, how: str) -> Connection:
        quoted = self.path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        connection: Connection = _sqlite().connect(
            f"file:{quoted}?{how}", uri=True, timeout=0, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = _text
        return connection

    def _is_known(self) -> bool:
        """Search for the mark of a store without locks and journals: SQLite may write to a database that it reads.

        It would undo what another program had begun, and move its write-ahead log into its file. False if the file
        cannot be read so: another process is writing to it, or was interrupted, and SQLite has to look under its lock.
        """
        connection = self._connected("immutable=1")
        try:
            self._require_store(connection)
        except Exception as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is None or (code == _NOT_A_DATABASE and not system.exists(f"{self.path}-journal")):
                raise
            return False
        finally:
            connection.close()
        return True

    def _require_store(self, connection: Connection) -> None:
        if not schema.is_store(connection):
            why = f"{self.path} is the database of another program: set 'store' to a directory of its own"
            raise Error(CKR.DEVICE_ERROR, why)

    def _look(self, connection: Connection) -> int:
        """Read the schema's version; tables of an older version are brought up to date, an empty file is left alone."""
        self._version = schema.version(connection)
        schema.check(connection)
        if 0 < self._version < len(schema.MIGRATIONS):
            if not self.writable:
                raise Error(CKR.DEVICE_ERROR, f"the store {self.path} is of an older p11tpm: open it as its owner once")
            self._written(connection, schema.version)
            self._version = len(schema.MIGRATIONS)
        return self._version

    def _create(self) -> Connection:
        files.make_directory(self.directory)
        files.check_directory(self.directory)
        files.make_file(self.path)
        connection = self._current()
        if connection is None:
            raise Error(CKR.DEVICE_ERROR, f"the store {self.path} was deleted while it was made")
        return connection

    def _meant(self, error: Exception) -> Exception:
        """Return the error of this package for one of SQLite's or of the operating system's, else the error itself."""
        if isinstance(error, OSError):
            return Error(rv_of(error), f"{error.filename or self.path}: {error.strerror}")
        damaged = isinstance(error, (DamagedError, UnicodeDecodeError))
        code = _CORRUPT if damaged else getattr(error, "sqlite_errorcode", None)
        if code is None:
            return error
        rv, why = _MEANINGS.get(code) or _MEANINGS.get(code & 0xFF) or (CKR.GENERAL_ERROR, "SQLite failed")
        holders = files.lockers(self.path) if code & 0xFF == _BUSY else []
        who = "".join(f"; process {pid} of uid {uid} has it locked" for pid, uid in holders)
        name = getattr(error, "sqlite_errorname", "a value that no store has" if damaged else code)
        return Error(rv, f"the store {self.path}: {why} ({name}){who}")


class _Functools:
    """What _sqlite3 wants of functools, which would load collections: two milliseconds of every host's start."""

    @staticmethod
    def lru_cache(size: int) -> Callable[[Any], Any]:
        """Return the decorator that functools.lru_cache(size) gives."""
        return lambda function: _functools._lru_cache_wrapper(function, size, False, tuple)  # noqa: SLF001


def _sqlite() -> Any:
    """Return the module behind sqlite3, without its adapters for dates: two more milliseconds."""
    with import_lock:
        lent = "functools" not in sys.modules and "_sqlite3" not in sys.modules
        if lent:
            sys.modules["functools"] = _Functools  # type: ignore[assignment]
        try:
            import _sqlite3
        finally:
            if lent:
                del sys.modules["functools"]
    return _sqlite3


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def _end(connection: Connection) -> None:
    """End a transaction that was not committed; SQLite has rolled it back itself after some errors."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _keep_for_ever(connection: Connection) -> None:
    """Keep a connection from ever being closed, at exit too.

    If another thread used it at the fork, closing it would undo the parent's transaction in the file; if the host has
    closed its file, it would close one of the host's. An object in a cycle that is out of the garbage collector's reach
    lives as long as the process.
    """
    cycle: list[object] = [connection]
    cycle.append(cycle)
    gc.freeze()
