"""The users who may change the files that a store and a configuration are read from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.host import files
from p11tpm.store import Record, Store, TokenRow

NOBODY, STRANGER = 65534, 65533


def make(directory: Path) -> None:
    store = Store(str(directory))
    token = store.add_token(TokenRow(uuid=bytes(16), label="there"))
    store.add([Record(token, bytes(16), {3: b"key"})])
    store.close()


def labels(directory: Path) -> list[str]:
    return [row.label for row in Store(str(directory)).tokens()]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o7777


def refused(work, rv: int = CKR.GENERAL_ERROR) -> str:
    with pytest.raises(Error) as caught:
        work()
    assert caught.value.rv == rv
    return caught.value.why


@pytest.mark.parametrize("umask", [0, 0o022, 0o277, 0o777])
def test_a_store_is_made_for_its_owner_alone_whatever_the_umask(home, as_nobody, umask):
    def work() -> int:
        os.umask(umask)
        make(home / "a" / "b" / "store")
        return os.umask(0)

    assert as_nobody(work) == umask
    assert [mode(home / path) for path in ("a", "a/b", "a/b/store")] == [0o700] * 3
    assert mode(home / "a/b/store/p11tpm.db") == 0o600
    assert names(home / "a/b/store") == ["p11tpm.db"]


@pytest.mark.parametrize("path", ["", "store", "store/p11tpm.db"])
@pytest.mark.parametrize("bits", [0o020, 0o002, 0o1002])
def test_what_others_may_write_to_is_refused(home, as_nobody, path, bits):
    as_nobody(lambda: make(home / "store"))
    entry = home / path
    entry.chmod(mode(entry) | bits)
    if bits == 0o1002 and path == "":
        assert as_nobody(lambda: labels(home / "store")) == ["there"]  # as in /tmp: sticky, and the store is ours
        return
    why = refused(lambda: as_nobody(lambda: labels(home / "store")))
    assert f"{entry}:" in why
    assert "chmod go-w" in why
    assert "chmod go-w" in refused(lambda: as_nobody(lambda: make(home / "store")))


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("path", ["", "store", "store/p11tpm.db"])
def test_what_belongs_to_another_user_is_refused(home, as_nobody, path):
    as_nobody(lambda: make(home / "store"))
    (home / "store").chmod(0o755)
    os.chown(home / path, STRANGER, STRANGER)
    assert f"{home / path} belongs to another user" in refused(lambda: as_nobody(lambda: labels(home / "store")))
    assert "belongs to another user" in refused(lambda: labels(home / "store"))  # root too


@pytest.mark.usefixtures("root")
def test_root_does_not_use_the_store_of_a_user(home, as_nobody):
    as_nobody(lambda: make(home / "store"))
    assert "belongs to another user" in refused(lambda: labels(home / "store"))
    assert "belongs to another user" in refused(lambda: make(home / "new"))
    assert not (home / "new").exists()


def test_symbolic_links_are_followed_on_the_way_but_not_at_the_end(home, as_nobody):
    def work() -> list[str]:
        make(home / "real" / "store")
        (home / "way").symlink_to("real")
        (home / "absolute").symlink_to(home / "way")
        (home / "end").symlink_to("real/store")
        (home / "loop").symlink_to("loop")
        (home / "file").mkdir(0o700)
        (home / "file" / "p11tpm.db").symlink_to(home / "real" / "store" / "p11tpm.db")
        assert labels(home / "way" / "store") == labels(home / "absolute" / "." / ".." / "real" / "store") == ["there"]
        whys = [refused(lambda name=name: labels(home / name)) for name in ("end", "file")]
        with pytest.raises((Error, OSError)):
            files.check_way(str(home / "loop" / "store"))
        return whys

    end, file = as_nobody(work)
    assert "symbolic link" in end
    assert "not a regular file" in file


@pytest.mark.usefixtures("root")
def test_a_link_of_a_stranger_on_the_way_is_refused(home, as_nobody):
    home.chmod(0o1777)
    as_nobody(lambda: make(home / "real" / "store"))
    (home / "way").symlink_to("real")
    os.chown(home / "way", STRANGER, STRANGER, follow_symlinks=False)
    assert "way belongs to another user" in refused(lambda: as_nobody(lambda: labels(home / "way" / "store")))


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_what_is_no_file_is_refused(home, as_nobody, kind):
    (home / "store").mkdir(0o700)
    path = home / "store" / "p11tpm.db"
    path.mkdir(0o700) if kind == "directory" else os.mkfifo(path, 0o600)
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
        os.chown(home / "store", NOBODY, NOBODY)
    assert "not a regular file" in refused(lambda: as_nobody(lambda: labels(home / "store")))


def only_reads(directory: Path) -> None:
    store = Store(str(directory))
    assert not store.writable
    before = store.version()
    (token,) = store.tokens()
    assert store.find(token.id, {3: b"key"}, {}) == [1]
    assert store.record(1).attributes == {3: b"key"}
    for write in (
        lambda: store.add([Record(token.id, bytes(16), {})]),
        lambda: store.update(store.record(1), {3: b"x"}, None),
        lambda: store.delete([store.record(1)]),
        lambda: store.add_token(TokenRow(uuid=bytes(15))),
        lambda: store.update_token(token, label="x"),
        lambda: store.delete_token(token.id, token.uuid),
    ):
        refused(write, CKR.TOKEN_WRITE_PROTECTED)
    store.add_failure(token.id, "USER", 0, 99)
    store.add_failure(token.id, "USER", 0, 100)
    assert store.failures(token.id, "USER") == (2, 100)
    assert Store(str(directory)).failures(token.id, "USER") == (0, 0)
    assert store.version() == before
    assert names(directory) == ["p11tpm.db"]


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("in_root_directory", [True, False])
def test_a_store_of_root_is_read_by_others(home, as_nobody, in_root_directory):
    os.chown(home, 0, 0)
    make(home / "store")
    (home / "store").chmod(0o755)
    (home / "store" / "p11tpm.db").chmod(0o644)
    if not in_root_directory:
        os.chown(home / "store", NOBODY, NOBODY)
        (home / "store").chmod(0o555)
    as_nobody(lambda: only_reads(home / "store"))


def test_a_read_only_directory_of_our_own(home, as_nobody):
    as_nobody(lambda: make(home / "store"))
    (home / "store").chmod(0o500)
    as_nobody(lambda: only_reads(home / "store"))
    refused(lambda: as_nobody(lambda: make(home / "store" / "below")), CKR.TOKEN_WRITE_PROTECTED)


def test_a_read_only_file_system(tmp_path):
    if subprocess.run(["unshare", "-Urm", "true"], timeout=60, check=False).returncode:
        pytest.skip("may not mount a small file system")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_files; from pathlib import Path; "
    script = """
        mount -t tmpfs -o size=1m,mode=755 none "$2" &&
        "$0" -c "$3 test_files.make(Path(sys.argv[2]) / 'store')" "$1" "$2" &&
        mount -o remount,ro "$2" &&
        exec "$0" -c "$3 test_files.only_reads(Path(sys.argv[2]) / 'store')" "$1" "$2"
    """
    arguments = [sys.executable, str(Path(__file__).parent), str(tmp_path), code]
    subprocess.run(["unshare", "-Urm", "sh", "-c", script, *arguments], timeout=60, check=True)


@pytest.mark.usefixtures("root")
def test_an_interrupted_write_in_a_store_that_we_only_read_is_explained(home, as_nobody):
    os.chown(home, 0, 0)
    make(home / "store")
    file = home / "store" / "p11tpm.db"
    code = """if True:
        import os, signal, sys
        from p11tpm.store import Record, Store
        store = Store(sys.argv[1])
        rows = [(bytes(5000),) for _ in range(2000)]
        def work(db):
            db.executemany("INSERT INTO object (token, uuid) VALUES (1, ?)", rows)
            os.kill(os.getpid(), signal.SIGKILL)
        store.database.write(work)
    """
    subprocess.run([sys.executable, "-c", code, str(home / "store")], timeout=60, check=False)
    assert (home / "store" / "p11tpm.db-journal").exists()
    for path in (home / "store", *(home / "store").iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert file.stat().st_size > 5_000_000
    assert "write was interrupted" in refused(lambda: as_nobody(lambda: labels(home / "store")), CKR.DEVICE_ERROR)
    assert labels(home / "store") == ["there"]
    assert as_nobody(lambda: labels(home / "store")) == ["there"]


def test_a_store_that_may_not_be_read_or_made(home, as_nobody):
    as_nobody(lambda: make(home / "store"))
    (home / "store" / "p11tpm.db").chmod(0)
    assert "p11tpm.db" in refused(lambda: as_nobody(lambda: labels(home / "store")), CKR.DEVICE_ERROR)
    (home / "store").chmod(0)
    refused(lambda: as_nobody(lambda: labels(home / "store")), CKR.TOKEN_WRITE_PROTECTED)
    (home / "store").chmod(0o700)
    (home / "file").write_text("")
    assert not as_nobody(lambda: Store(str(home / "file" / "store")).writable)
    assert labels(home / "file" / "store") == []


def test_names_that_an_address_would_change(home, as_nobody):
    directory = home / "50% of ? # & äöü"
    as_nobody(lambda: make(directory))
    assert as_nobody(lambda: labels(directory)) == ["there"]
    assert names(directory) == ["p11tpm.db"]
    assert names(home) == [directory.name]


@pytest.mark.parametrize("kind", ["fifo", "directory", "link"])
@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_what_is_no_file_beside_the_database_is_refused_and_not_waited_for(home, as_nobody, suffix, kind):
    store = home / "store"
    path = store / f"p11tpm.db{suffix}"

    def work() -> list[str]:
        make(store)
        opened = Store(str(store))
        assert [row.label for row in opened.tokens()] == ["there"]
        {"fifo": os.mkfifo, "directory": Path.mkdir, "link": lambda path: path.symlink_to("fifo")}[kind](path)
        if kind == "link":
            os.mkfifo(store / "fifo")
        reads = (lambda: opened.find(1, {}, {}), lambda: opened.add([Record(1, bytes(16), {})]), lambda: labels(store))
        return [refused(read) for read in reads]

    assert all(f"{path} is not a regular file" in why for why in as_nobody(work))
