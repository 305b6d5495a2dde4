"""What the disk, other processes and forks may do to a store, and what it makes of that."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from errno import EIO, ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.store import Record, Store, TokenRow, database, schema
from rig.deadline import exit_code, fork, join, killed_after

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
KILL, LOSE_ALL, LOSE_HALF, ONCE = 0, -1, -2, 1000  # fault.c
SOAK_SECONDS = float(os.environ.get("P11TPM_SOAK_SECONDS", "10"))
LABEL = 0x003


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(directory: Path) -> Iterator[Store]:
    store = Store(str(directory))
    yield store
    store.close()


@pytest.fixture(scope="session")
def fault(tmp_path_factory) -> Path:
    library = tmp_path_factory.mktemp("fault") / "fault.so"
    source = HERE / "fault.c"
    subprocess.run(
        ["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"], timeout=60, check=True
    )
    return library


def a_token() -> TokenRow:
    return TokenRow(uuid=os.urandom(16))


def a_record(token: int, label: bytes = b"") -> Record:
    return Record(token, os.urandom(16), {LABEL: label})


def script(name: str, *arguments: object, **options) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, **options)


# -- kill -9, power loss, full disk, input/output errors


@pytest.mark.parametrize("kind", [KILL, LOSE_ALL, LOSE_HALF, EIO, ENOSPC, ONCE + EIO, ONCE + ENOSPC])
def test_a_change_is_made_or_not_whatever_happens_at_any_point(fault, directory, kind):
    with (
        script("faulty.py", directory, kind, env={**os.environ, "LD_PRELOAD": str(fault)}) as process,
        killed_after(process.pid, 120),
    ):
        lines = [line.split() for line in process.stdout]
    assert process.returncode == 0
    assert len(lines) > 20
    objects = 2
    for number, (point, end, tokens, now, opinion, _) in enumerate(lines):
        assert (int(point), tokens, opinion) == (number, "1", "ok")
        assert int(now) in {objects, objects + 2}
        if end == "done":
            assert int(now) == objects + 2
        elif kind <= KILL:
            assert end == "killed"
        elif kind % ONCE == EIO:
            assert end == hex(CKR.DEVICE_ERROR)
        else:  # a full disk is only told from a broken one while data are written
            assert end in {hex(CKR.DEVICE_MEMORY), hex(CKR.DEVICE_ERROR)}
        objects = int(now)
    if kind % ONCE == ENOSPC:
        assert lines[0][1] == hex(CKR.DEVICE_MEMORY)
    assert "hot" in {line[-1] for line in lines} or kind > KILL


def test_what_was_answered_is_there_after_kill_9_at_any_time(store, directory):
    token = store.add_token(a_token())
    code = """if True:
        import os, sys
        from p11tpm.store import Record, Store
        store = Store(sys.argv[1])
        while True:
            ids = store.add([Record(1, os.urandom(16), {3: bytes(2000)}) for _ in range(2)])
            os.write(1, b"%d\\n" % ids[1])
    """
    answered = []
    for turn in range(15):
        process = subprocess.Popen([sys.executable, "-c", code, directory], stdout=subprocess.PIPE)
        with killed_after(process.pid):
            answered.append(int(process.stdout.readline()))
        time.sleep(turn / 500)
        process.kill()
        answered += map(int, process.communicate(timeout=60)[0].splitlines())
    ids = set(store.find(token, {}, {}))
    assert set(answered) <= ids
    assert all((id_ + 1 if id_ % 2 else id_ - 1) in ids for id_ in ids)
    store.add([a_record(token)])


FULL_DISK = """if True:
    import os, sys
    from p11tpm.ck import CKR
    from p11tpm.error import Error
    from p11tpm.store import Record, Store, TokenRow
    directory = sys.argv[1]
    with open(directory + "/ballast", "wb") as ballast:
        ballast.write(bytes(80_000))
    store = Store(directory + "/store")
    token = store.add_token(TokenRow(uuid=os.urandom(16)))
    ids = []
    try:
        while True:
            ids += store.add([Record(token, os.urandom(16), {3: bytes(5000)}) for _ in range(2)])
    except Error as error:
        print(error.why, file=sys.stderr)
        assert error.rv == CKR.DEVICE_MEMORY, error.why
    assert len(ids) > 2
    assert store.find(token, {}, {}) == ids
    assert Store(directory + "/store").find(token, {}, {}) == ids
    made = 0
    try:
        made = Store(directory + "/other").add_token(TokenRow(uuid=os.urandom(16)))
    except Error as error:
        assert error.rv == CKR.DEVICE_MEMORY, error.why
    assert len(Store(directory + "/other").tokens()) == made
    os.unlink(directory + "/ballast")
    assert store.delete([store.record(id_) for id_ in ids[:2]]) == 2
"""


def test_a_full_disk(tmp_path):
    mounted = f'mount -t tmpfs -o size=256k none {tmp_path} && exec "$0" "$@"'
    command = ["sh", "-c", mounted, sys.executable, "-c", FULL_DISK, str(tmp_path)]
    if subprocess.run(["unshare", "-Urm", "true"], timeout=60, check=False).returncode:
        pytest.skip("may not mount a small file system")
    done = subprocess.run(["unshare", "-Urm", *command], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "its disk is full" in done.stderr


def test_a_file_that_may_not_grow(store, directory):
    token = store.add_token(a_token())
    code = FULL_DISK.replace("CKR.DEVICE_MEMORY", "CKR.DEVICE_ERROR").replace("while True", "while len(ids) < 1000")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    subprocess.run(
        [sys.executable, "-c", limit + code, str(directory)], stderr=subprocess.DEVNULL, timeout=60, check=True
    )
    assert store.token(token) is not None


@pytest.mark.parametrize("damage", ["header", "cut", "middle", "text", "other database"])
def test_a_damaged_file_is_named(store, directory, damage):
    token = store.add_token(a_token())
    store.add([Record(token, os.urandom(16), {LABEL: bytes(3000)}) for _ in range(20)])
    store.close()
    file = directory / "p11tpm.db"
    content = file.read_bytes()
    file.write_bytes(
        {
            "header": b"\xff" * 100 + content[100:],
            "cut": content[: len(content) // 2],
            "middle": content[:4096] + b"\xff" * (len(content) - 4096),
            "text": b"not a database\n" * 1000,
            "other database": content[:60] + bytes(4) + content[64:],
        }[damage]
    )
    with pytest.raises(Error) as caught:
        store.add_token(a_token())
    assert caught.value.rv in {CKR.DEVICE_ERROR, CKR.GENERAL_ERROR}
    assert str(file) in caught.value.why


# -- versions


def test_a_newer_store_is_refused_and_left_alone(store, directory):
    store.add_token(a_token())
    store.database.write(lambda db: db.execute(f"PRAGMA user_version={len(schema.MIGRATIONS) + 1}"))
    store.close()
    file = directory / "p11tpm.db"
    before = (file.read_bytes(), file.stat().st_mtime_ns, sorted(directory.iterdir()))
    for use in (store.tokens, store.version, lambda: store.add_token(a_token()), lambda: store.delete_token(1, b"")):
        with pytest.raises(Error, match="a newer p11tpm") as caught:
            use()
        assert caught.value.rv == CKR.DEVICE_ERROR
    assert (file.read_bytes(), file.stat().st_mtime_ns, sorted(directory.iterdir())) == before


def test_a_program_that_runs_while_a_newer_one_changes_the_format_writes_nothing_more(store, directory):
    store.add_token(a_token())
    newer = Store(str(directory))
    newer.database.write(lambda db: db.execute("PRAGMA user_version=99"))
    with pytest.raises(Error, match="a newer p11tpm"):
        store.add_token(a_token())


def test_an_older_store_is_brought_up_to_date(store, directory, monkeypatch):
    token = store.add_token(a_token())
    store.close()
    step = ("CREATE TABLE more (x INTEGER)", "INSERT INTO more SELECT id FROM token")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, step))
    assert [row.id for row in store.tokens()] == [token]
    assert store.database.read(lambda db: db.execute("SELECT x FROM more").fetchall(), []) == [(token,)]
    assert store.database.read(schema.version, 0) == len(schema.MIGRATIONS)
    again = Store(str(directory))
    again.add_token(a_token())
    assert again.database.read(lambda db: db.execute("SELECT x FROM more").fetchall(), []) == [(token,)]


def test_a_step_that_fails_changes_nothing(store, monkeypatch):
    token = store.add_token(a_token())
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE more (x)", "INSERT INTO nothing")))
        with pytest.raises(Error):
            store.tokens()
    assert [row.id for row in store.tokens()] == [token]
    tables = store.database.read(lambda db: db.execute("SELECT name FROM sqlite_schema").fetchall(), [])
    assert ("more",) not in tables


# -- other processes


@pytest.mark.slow
def test_eight_processes_write_without_a_locked_database(store, directory):
    token = store.add_token(a_token())
    processes = [script("soaker.py", directory, token, SOAK_SECONDS) for _ in range(8)]
    answers = [process.communicate(timeout=SOAK_SECONDS + 60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    rounds, longest = [int(answer[0]) for answer in answers], max(float(answer[1]) for answer in answers)
    print(f"{sum(rounds)} rounds in {SOAK_SECONDS:g} s, from {min(rounds)} to {max(rounds)}, longest {longest:.3f} s")  # noqa: T201
    assert min(rounds) > 0
    assert store.find(token, {}, {}) == []
    assert store.database.read(lambda db: db.execute("PRAGMA integrity_check").fetchone(), ()) == ("ok",)


def test_eight_processes_make_the_store_at_once(directory):
    code = "import os, sys; from p11tpm.store import *; Store(sys.argv[1]).add_token(TokenRow(uuid=os.urandom(16)))"
    processes = [subprocess.Popen([sys.executable, "-c", code, directory]) for _ in range(8)]
    assert [process.wait(60) for process in processes] == [0] * 8
    assert [row.id for row in Store(str(directory)).tokens()] == list(range(1, 9))


def test_a_write_waits_for_a_long_one_and_gives_up_with_a_reason(store, directory, monkeypatch):
    token = store.add_token(a_token())
    other = Store(str(directory))
    started, end = threading.Event(), threading.Event()

    def long(_: object) -> None:
        started.set()
        end.wait(60)

    thread = threading.Thread(target=other.database.write, args=(long,), daemon=True)
    thread.start()
    assert started.wait(60)
    assert store.find(token, {}, {}) == []  # a reader does not wait
    monkeypatch.setattr(database, "PATIENCE", 0.2)
    with pytest.raises(Error, match="locked for too long") as caught:
        store.add([a_record(token)])
    assert caught.value.rv == CKR.FUNCTION_FAILED
    monkeypatch.undo()
    threading.Timer(0.5, end.set).start()
    assert store.add([a_record(token)]) == [1]
    join(thread)


def test_connections_are_set_up_as_promised(store):
    store.add_token(a_token())

    def pragma(name: str) -> object:
        return store.database.read(lambda db: db.execute(f"PRAGMA {name}").fetchone()[0], None)

    names = ("journal_mode", "foreign_keys", "trusted_schema")
    assert [pragma(name) for name in names] == ["delete", 1, 0]
    assert store.database.write(lambda db: db.execute("PRAGMA busy_timeout").fetchone()) == (30_000,)
    assert pragma("synchronous") >= 2  # FULL


# -- forks


FORK = """if True:
    import os, sys, threading
    from p11tpm.store import Record, Store, TokenRow
    store = Store(sys.argv[1])
    token = store.add_token(TokenRow(uuid=os.urandom(16)))
    started, end = threading.Event(), threading.Event()

    def work(db):
        db.executemany("INSERT INTO object (token, uuid) VALUES (1, ?)", [(os.urandom(5000),) for _ in range(2000)])
        started.set()
        end.wait()

    thread = threading.Thread(target=store.database.write, args=(work,))
    thread.start()
    started.wait()
    store.pause()
    child = os.fork()
    if child == 0:
        store.abandon()
        del store
        sys.exit(0)  # with everything that Python closes at its end
    store.resume()
    assert os.waitpid(child, 0)[1] == 0
    end.set()
    thread.join()
    assert len(store.find(token, {}, {})) == 2000
    assert store.database.read(lambda db: db.execute("PRAGMA integrity_check").fetchone(), ()) == ("ok",)
"""


def test_a_fork_while_another_thread_writes_does_the_parent_no_harm(directory):
    subprocess.run([sys.executable, "-c", FORK, directory], check=True, timeout=60)


def test_a_child_has_its_own_connection(store, directory):
    token = store.add_token(a_token())
    store.pause()

    def add() -> int:
        store.abandon()
        return 0 if store.add([a_record(token)]) == [1] else 1

    child = fork(add)
    store.resume()
    assert exit_code(child) == 0
    assert store.add([a_record(token)]) == [2]
    assert Store(str(directory)).find(token, {}, {}) == [1, 2]


@pytest.mark.slow
def test_forks_while_threads_work_do_not_hang(store):
    token = store.add_token(a_token())
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            store.delete([store.record(id_) for id_ in store.add([a_record(token)])])

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()

    def find() -> None:
        store.abandon()
        store.find(token, {LABEL: b"x"}, {})

    for _ in range(40):
        store.pause()
        child = fork(find)
        store.resume()
        assert exit_code(child) == 0
    end.set()
    join(*threads)


def test_a_file_that_nobody_touches_is_not_read_again(store, directory, monkeypatch):
    """...and one that somebody wrote to is, however long it was left alone before."""
    token = store.add_token(a_token())
    later = time.time_ns() + 4_000_000_000
    monkeypatch.setattr("p11tpm.store.database.time_ns", lambda: later)
    row, before = store.token(token), store.version()
    statements = []
    store.database._connection.set_trace_callback(statements.append)  # noqa: SLF001 - what SQLite is asked
    assert [store.version() for _ in range(3)] == [before] * 3
    assert statements == []
    Store(str(directory)).update_token(row, label="changed")
    assert store.version() != before
    assert statements == ["PRAGMA data_version"]
    assert store.token(token).label == "changed"


# -- other users, who may read the file


HOLD = """if True:
    import fcntl, os, sys, time
    os.setgroups([]), os.setgid(65533), os.setuid(65533)
    with open(sys.argv[1], "rb") as file:
        fcntl.lockf(file, fcntl.LOCK_SH, int(sys.argv[3]), int(sys.argv[2]))
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(("start", "length"), [(0, 0), (0x40000002, 510)], ids=["the file", "as readers do"])
def test_a_lock_of_another_user_is_waited_for_and_named(home, monkeypatch, start, length):
    os.chown(home, 0, 0)
    store = Store(str(home / "store"))
    token = store.add_token(a_token())
    (home / "store").chmod(0o755)
    Path(store.database.path).chmod(0o644)
    monkeypatch.setattr(database, "PATIENCE", 0.2)
    monkeypatch.setattr(database, "_BUSY_TIMEOUT", 200)
    command = [sys.executable, "-c", HOLD, store.database.path, str(start), str(length)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder, killed_after(holder.pid):
        assert holder.stdout.readline() == b"held\n"
        before = time.monotonic()
        with pytest.raises(Error, match=f"process {holder.pid} of uid 65533 has it locked") as caught:
            store.add([a_record(token)])
        assert caught.value.rv == CKR.FUNCTION_FAILED
        assert time.monotonic() - before < 10
        assert store.find(token, {}, {}) == []
        holder.kill()
    assert store.add([a_record(token)]) == [1]
