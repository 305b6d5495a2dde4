"""tpm2-abrmd: what is asked of it, what it answers, and what it leaves in the process."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from p11tpm._native import lib

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.tpm import Tpm, provision, template
from p11tpm.tpm.codec import Key
from p11tpm.tpm.tabrmd import Broker, Message, address, call
from rig.deadline import exit_code, fork, join
from rig.process import wait_until
from rig.tabrmd import BUS_NAME
from unit.tpm_ground import SECRET, SO, USER, create_token, timer_threads

CONNECTIONS = 27  # that tpm2-abrmd allows at a time, by default
PLACES = ("DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "XDG_RUNTIME_DIR")


@pytest.fixture
def bus(tabrmd, monkeypatch):
    """The environment of a user of `tabrmd`, and of no other bus."""
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
    for name, value in tabrmd.env.items():
        monkeypatch.setenv(name, value)
    return tabrmd


@pytest.fixture
def tpm(bus):
    tpm = Tpm(bus.tcti, 5)
    yield tpm
    tpm.release()


def sockets() -> dict[str, int]:
    """Our descriptors of sockets, by what they are descriptors of."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if (place := str(entry.readlink())).startswith("socket:"):
                found[place] = int(entry.name)
    return found


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def refused(tpm: Tpm) -> Error:
    with pytest.raises(Error) as caught:
        tpm.lockout()
    return caught.value


def refusal(tcti: str) -> Error:
    return refused(Tpm(tcti))


def key(tpm: Tpm) -> Key:
    provision.provision(tpm)
    blob = tpm.create(template.ec("p256"), b"k" * 32)
    return Key(1, blob.public, blob.private, b"k" * 32)


# -- one socket and nothing else


def test_one_socket_and_the_timer(tpm):
    before, threads_before = sockets(), threads()
    assert tpm.lockout().max_tries == 32
    new = sockets().keys() - before.keys()
    assert [os.get_inheritable(sockets()[place]) for place in new] == [False]
    assert timer_threads() == threads() - threads_before == 1
    tpm.release()
    assert (sockets(), threads()) == (before, threads_before)


def test_a_token_by_way_of_the_broker(tpm):
    provision.provision(tpm)
    _, user = create_token(tpm, SO, USER, SECRET)
    assert tpm.unseal(user, USER) == SECRET


@pytest.mark.parametrize("started", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("signing", [0, 4], ids=["alone", "while threads sign"])
def test_a_forked_child_has_a_tpm_of_its_own(bus, tpm, started, signing):
    private = key(tpm)
    if started:
        tpm.sign(private, bytes(32))
    else:
        tpm.release()
    end = threading.Event()

    def keep_signing() -> None:
        while not end.is_set():
            tpm.sign(private, bytes(32))

    others = [threading.Thread(target=keep_signing, daemon=True) for _ in range(signing)]
    for thread in others:
        thread.start()

    def sign_alone() -> int:
        tpm.abandon()
        own = Tpm(bus.tcti)
        own.bind(tpm.srk)
        r, _ = own.sign(private, bytes(32))
        own.release()
        return 0 if r and threads() == 1 else 1

    try:
        children = [fork(sign_alone) for _ in range(3)]
        assert [exit_code(child) for child in children] == [0, 0, 0]
    finally:
        end.set()
        join(*others)
    tpm.sign(private, bytes(32))


def test_a_fork_while_the_broker_is_asked(bus, monkeypatch):
    """The child closes the connection to the bus that a thread of the parent was using."""
    listener = socket.socket(socket.AF_UNIX)
    path = bus.swtpm.directory / "silent"
    listener.bind(str(path))
    listener.listen()
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={path}")
    tpm = Tpm(bus.tcti)
    before = sockets()
    asking = threading.Thread(target=refused, args=(tpm,), daemon=True)
    asking.start()
    accepted, _ = listener.accept()
    assert accepted.recv(4096).startswith(b"\0AUTH EXTERNAL")

    def let_go() -> int:
        accepted.close()
        tpm.abandon()
        return len(sockets().keys() - before.keys())

    assert exit_code(fork(let_go)) == 0
    accepted.close()
    asking.join(5)
    assert not asking.is_alive()
    listener.close()


KILLED = """
import os, sys
from p11tpm.tpm import Tpm, Key, provision, template
tpm = Tpm(sys.argv[1])
provision.provision(tpm)
blob = tpm.create(template.ec("p256"), b"k" * 32)
tpm.sign(Key(1, blob.public, blob.private, b"k" * 32), bytes(32))
os.kill(os.getpid(), 9)
"""


def test_a_killed_process_leaves_nothing(bus, tpm):
    tpm.lockout()
    done = subprocess.run([sys.executable, "-c", KILLED, bus.tcti], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: bus.swtpm.loaded() == [], "tpm2-abrmd flushing what was left", 5)


# -- when it goes


def test_a_new_broker_is_found(bus, tpm):
    private = key(tpm)
    tpm.sign(private, bytes(32))
    bus.restart()
    tpm.sign(private, bytes(32))


def test_a_wrong_pin_after_a_new_broker_counts_once(bus, tpm):
    provision.provision(tpm)
    _, user = create_token(tpm, SO, USER, SECRET)
    tpm.unseal(user, USER)
    bus.restart()
    with pytest.raises(Error) as caught:
        tpm.unseal(user, SO)
    assert caught.value.rv != CKR.DEVICE_REMOVED
    assert tpm.lockout().counter == 1


# -- refusals


@pytest.mark.parametrize(
    "settings",
    ["bus_type=neither", "bus_name=a.b,colour=red", "colour", "bus_type"],
)
def test_settings_that_nobody_knows(settings):
    assert refusal(f"tabrmd:{settings}").rv == CKR.GENERAL_ERROR


@pytest.mark.parametrize("tcti", ["tabrmd", "tabrmd:", "tabrmd:bus_type=system", "libtss2-tcti-tabrmd.so.0"])
def test_no_system_bus(bus, tcti):  # noqa: ARG001
    caught = refusal(tcti)
    assert caught.rv == CKR.DEVICE_REMOVED
    assert tcti in caught.why


@pytest.mark.parametrize("name", ["com.intel.tss2.Nobody", "not a name"])
def test_no_such_daemon(bus, name):  # noqa: ARG001
    assert refusal(f"tabrmd:bus_type=session,bus_name={name}").rv == CKR.DEVICE_REMOVED


def test_no_session(bus, monkeypatch, tmp_path):
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS")
    assert refusal(bus.tcti).rv == CKR.DEVICE_REMOVED
    (tmp_path / "bus").symlink_to(bus.env["DBUS_SESSION_BUS_ADDRESS"].partition("=")[2])
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert Tpm(bus.tcti).lockout().max_tries == 32


def test_all_its_connections_are_in_use(bus):
    brokers = []

    def is_one_free() -> bool:
        """Whether tpm2-abrmd, which learns of an end by and by, gives another connection."""
        try:
            return Tpm(bus.tcti).lockout().max_tries == 32
        except Error:
            return False

    try:
        for _ in range(CONNECTIONS):
            brokers.append(Tpm(bus.tcti, 60))
            brokers[-1].lockout()
        caught = refusal(bus.tcti)
        assert (caught.rv, os.strerror(errno.EUSERS) in caught.why) == (CKR.DEVICE_ERROR, True)
        brokers.pop().release()
        wait_until(is_one_free, "a connection for the next one", 60)
    finally:
        for one in brokers:
            one.release()


class Setuid:
    """The extension module, as a program with other rights than its caller's has it."""

    def __getattr__(self, name: str):
        return (lambda: 1) if name == "secure" else getattr(lib, name)


def test_a_setuid_program_finds_the_system_bus_by_itself(bus, monkeypatch):
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.env["DBUS_SESSION_BUS_ADDRESS"])
    assert Tpm("tabrmd:").lockout().max_tries == 32
    monkeypatch.setattr("p11tpm.tpm.connection.lib", Setuid())
    assert refusal("tabrmd:").rv == CKR.DEVICE_REMOVED
    caught = refusal(bus.tcti)
    assert caught.rv == CKR.DEVICE_ERROR
    assert "a setuid program" in caught.why


OK = b"OK 0123\r\nAGREE_UNIX_FD\r\n"


def error(name: str) -> tuple[bytes, ...]:
    """An error as the bus would send it, in pieces."""
    fields = b"\5\1u\0\2\0\0\0\4\1s\0" + len(name).to_bytes(4, "little") + name.encode() + b"\0"
    head = b"l\3\1\1" + bytes(4) + b"\1\0\0\0" + len(fields).to_bytes(4, "little")
    return OK[:9], OK[9:], head[:7], head[7:] + fields[:20], fields[20:] + bytes(-len(fields) % 8)


class Bus:
    """A bus that gives the answers it was told to, in pieces, one to each who connects; then there is none."""

    def __init__(self, path: Path, *answers: tuple[bytes, ...]) -> None:
        self.address = f"unix:path={path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, args=(answers,), daemon=True)
        self._thread.start()

    def _serve(self, answers: tuple[tuple[bytes, ...], ...]) -> None:
        for answer in answers:
            client, _ = self._listener.accept()
            with client, contextlib.suppress(OSError):
                assert client.recv(4096).startswith(b"\0AUTH EXTERNAL")
                for piece in answer:
                    client.sendall(piece)
                    time.sleep(0.002)
        self._listener.close()

    def ended(self) -> bool:
        """Whether all answers were given."""
        self._thread.join(5)
        return not self._thread.is_alive()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"REJECTED EXTERNAL\r\n\r\n",
        b"OK 0123\r\nERROR\r\n",
        OK + b"l\2\1\1" + bytes(4) + b"\1\0\0\0" + b"\x08\0\0\0" + b"\5\1u\0\2\0\0\0",  # an answer without a socket
        OK + b"x" * 70000,
        OK + b"l\2\1\1" + b"\xff" * 12 + b"l" * 70000,
    ],
    ids=["nothing", "rejected", "no descriptors", "no socket", "too much", "too large"],
)
def test_answers_that_are_none(tmp_path, monkeypatch, answer):
    before = sockets()
    fake = Bus(tmp_path / "bus", (answer,))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", fake.address)
    assert refusal("tabrmd:").rv in {CKR.DEVICE_REMOVED, CKR.DEVICE_ERROR}
    assert fake.ended()
    assert sockets() == before


@pytest.mark.parametrize(
    ("name", "rv", "remedy"),
    [
        ("org.freedesktop.DBus.Error.AccessDenied", CKR.DEVICE_ERROR, "add the user to group tss"),
        ("org.freedesktop.DBus.Error.NoReply", CKR.DEVICE_REMOVED, os.strerror(errno.ETIMEDOUT)),
        ("org.freedesktop.DBus.Error.Spawn.ChildExited", CKR.DEVICE_REMOVED, os.strerror(errno.ENODEV)),
    ],
)
def test_errors_of_the_bus(tmp_path, monkeypatch, name, rv, remedy):
    fake = Bus(tmp_path / "bus", error(name))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", fake.address)
    caught = refusal("tabrmd:")
    assert caught.rv == rv
    assert remedy in caught.why
    assert fake.ended()


def test_a_daemon_that_is_not_ready_is_asked_again(tmp_path, monkeypatch):
    names = ("DBus.Error.UnknownMethod", "DBus.Error.UnknownObject", "DBus.Error.ServiceUnknown")
    fake = Bus(tmp_path / "bus", *(error(f"org.freedesktop.{name}") for name in names))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", fake.address)
    assert refusal("tabrmd:").rv == CKR.DEVICE_REMOVED
    assert fake.ended()


def test_a_daemon_that_is_never_ready(tmp_path, monkeypatch):
    monkeypatch.setattr("p11tpm.tpm.connection._BROKER_PAUSES", (0, 0))
    unknown = error("org.freedesktop.DBus.Error.UnknownMethod")
    fake = Bus(tmp_path / "bus", unknown, unknown)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", fake.address)
    assert refusal("tabrmd:").rv == CKR.DEVICE_ERROR
    assert fake.ended()


# -- addresses and messages


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("unix:path=/run/user/1/bus", b"/run/user/1/bus"),
        ("unix:path=/a%20b%2cc,guid=12", b"/a b,c"),
        ("tcp:host=here;unix:guid=1,abstract=/tmp/x", b"\0/tmp/x"),
        ("unix:path=/a%zz;unix:path=/b", b"/b"),
    ],
)
def test_addresses(text, path):
    assert address(text) == path


@pytest.mark.parametrize("text", ["", "tcp:host=a,port=1", "unix:", "unix:tmpdir=/tmp", "autolaunch:", "unix:path=%zz"])
def test_addresses_that_are_none(text):
    with pytest.raises(OSError, match="Invalid argument"):
        address(text)


def test_a_call_reads_as_it_was_written():
    data = call(7, BUS_NAME, "/a/b", "c.d", "Member")
    message = Message(data)
    assert (message.type, message.size) == (1, len(data))
    assert message.fields == {1: "/a/b", 2: "c.d", 3: "Member", 6: BUS_NAME}
    for size in range(len(data)):
        with pytest.raises(IndexError):
            Message(data[:size])


def test_a_message_of_the_other_byte_order():
    assert Message(b"B\2\1\1" + bytes(4) + b"\0\0\0\1" + b"\0\0\0\x08" + b"\5\1u\0\0\0\0\2").fields == {5: 2}


def test_a_request_is_closed():
    before = sockets()
    broker = Broker("tabrmd:")
    assert len(sockets()) == len(before) + 1
    broker.close()
    broker.close()
    assert sockets() == before
