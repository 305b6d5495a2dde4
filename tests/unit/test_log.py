"""What the log writes, where, and that it never gets in the way."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from p11tpm.host import log
from p11tpm.host.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def reset() -> Iterator[None]:
    yield
    log.configure(Config())


def configure(where: str, level: str = "error") -> None:
    config = Config()
    config.log, config.log_level = where, level
    log.configure(config)


@pytest.fixture
def daemon(tmp_path, monkeypatch) -> Iterator[socket.socket]:
    """What listens where syslog's daemon does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "log"))
        listener.settimeout(5)
        monkeypatch.setattr(log, "_SYSLOG", str(tmp_path / "log"))
        yield listener


def test_errors_go_to_syslog_by_default(daemon):
    log.configure(Config())
    log.debug("not this")
    log.error("C_Sign: CKR_DEVICE_ERROR: why")
    message = daemon.recv(2000).decode()
    stamp = r"[A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"<83>{stamp} p11tpm\[{os.getpid()}\]: C_Sign: CKR_DEVICE_ERROR: why", message)


def test_debug_level(daemon):
    configure("syslog", "debug")
    assert log.debugging()
    log.debug("one\ntwo")
    first, second = daemon.recv(2000), daemon.recv(2000)
    assert (first[:4], first[-5:], second[-5:]) == (b"<87>", b": one", b": two")


@pytest.mark.parametrize("level", ["error", "debug"])
def test_what_is_asked_for_is_logged_at_every_level(daemon, level):
    configure("syslog", level)
    log.notice(lambda: 1 / 0)
    log.notice(lambda: "use=sign")
    message = daemon.recv(2000)
    assert (message[:4], message[-10:]) == (b"<85>", b": use=sign")


def test_the_hosts_own_messages_keep_their_name():
    """syslog(3) keeps the name that openlog(3) gets, so the log must not call it in a host that has its own."""
    code = """if True:
        import sys
        from p11tpm.host import log
        log.error("x")
        assert "syslog" not in sys.modules and "logging" not in sys.modules and "socket" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


@pytest.mark.parametrize("level", ["error", "debug"])
def test_a_file(tmp_path, level):
    path = tmp_path / "p11tpm.log"
    configure(str(path), level)
    log.error("first")
    log.debug("second")
    log.error("third")
    assert path.stat().st_mode & 0o777 == 0o600
    lines = path.read_text().splitlines()
    pattern = rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ p11tpm\[{os.getpid()}\] (error|debug): (\w+)"
    said = [re.fullmatch(pattern, line).groups() for line in lines]
    between = [("debug", "second")] if level == "debug" else []
    assert said == [("error", "first"), *between, ("error", "third")]


def test_standard_error_and_never_standard_output(capfd):
    configure("stderr")
    log.error("here")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.endswith(" error: here\n")


def test_off(capfd, daemon):
    configure("off", "debug")
    assert not log.debugging()
    log.error("x")
    log.debug("x")
    assert capfd.readouterr() == ("", "")
    daemon.setblocking(False)
    with pytest.raises(BlockingIOError):
        daemon.recv(1)


def test_what_could_fake_a_line_or_a_terminal_is_replaced(tmp_path):
    path = tmp_path / "log"
    configure(str(path))
    log.error("a\x1b[2Jb\x00c\u202ed \udcff")
    log.error("first\r\nsecond\n\nthird " + "x" * 5000)
    first, second, third, empty, fourth = path.read_text().splitlines()
    assert first.endswith("error: a?[2Jb?c?d ?")
    assert second.endswith("error: first")
    assert third.endswith("error: second")
    assert "error: third xxx" in fourth
    assert len(fourth) < 1100
    assert empty.endswith("error: ")


def test_a_log_that_can_not_be_written_is_silent(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("target")
    os.mkfifo(tmp_path / "fifo")
    for where in ("missing/log", "link", "fifo", "."):
        configure(str(tmp_path / where), "debug")
        log.error("x")
        log.debug("x")
    assert not (tmp_path / "target").exists()
    monkeypatch.setattr(log, "_SYSLOG", str(tmp_path / "nobody listens"))
    log.configure(Config())
    log.error("x")
    code = "import os; from p11tpm.host import log; from p11tpm.host.config import Config; c = Config(); "
    code += "c.log = 'stderr'; log.configure(c); os.close(2); log.error('x')"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


@pytest.mark.usefixtures("root")
def test_a_file_that_another_user_put_there_gets_nothing(tmp_path):
    path = tmp_path / "log"
    path.write_text("")
    os.chown(path, 65533, 65533)
    configure(str(path))
    log.error("x")
    assert path.read_text() == ""


def test_lines_of_several_processes_stay_whole(tmp_path):
    path: Path = tmp_path / "log"
    code = "import sys; from p11tpm.host import log; from p11tpm.host.config import Config; c = Config(); "
    code += "c.log = sys.argv[1]; log.configure(c)\nfor n in range(200): log.error(sys.argv[2] * 200)"
    processes = [subprocess.Popen([sys.executable, "-c", code, path, letter]) for letter in "abcd"]
    assert [process.wait(60) for process in processes] == [0] * 4
    lines = path.read_text().splitlines()
    assert sorted(line[-200:] for line in lines) == sorted(letter * 200 for letter in "abcd" for _ in range(200))


OTHER = 65533


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("shape", ["their link to a directory", "their directory", "open to everybody"])
def test_no_file_is_made_where_another_user_says(home, shape):
    where = home / "way"
    (home / "target").mkdir(0o755)
    os.chown(home, 0, 0)
    if shape == "their link to a directory":
        home.chmod(0o1777)
        where.symlink_to(home / "target")
    else:
        where.mkdir()
        where.chmod(0o777 if shape == "open to everybody" else 0o755)
    if shape != "open to everybody":
        os.chown(where, OTHER, OTHER, follow_symlinks=False)
    configure(str(where / "log"))
    log.error("x")
    assert [path for path in home.rglob("log") if path.is_file()] == []


@pytest.mark.usefixtures("root")
def test_a_group_may_write_to_the_directory(home):
    """As Ubuntu's group syslog may to /var/log."""
    os.chown(home, 0, OTHER)
    home.chmod(0o775)
    configure(str(home / "log"))
    log.error("x")
    assert (home / "log").read_text().endswith(" error: x\n")


def test_a_second_name_of_another_file_gets_nothing(tmp_path):
    path = tmp_path / "log"
    (tmp_path / "other").write_text("")
    path.hardlink_to(tmp_path / "other")
    configure(str(path))
    log.error("x")
    assert path.read_text() == ""


def test_a_special_file_gets_nothing_even_if_somebody_reads_it(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    configure(str(tmp_path / "fifo"))
    log.error("x")
    assert os.read(reader, 1) == b"", "nobody has it open to write"
    os.close(reader)
