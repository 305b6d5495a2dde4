"""The connection: what it is made to, and what the host notices of it: nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import socket
import subprocess
import sys
import threading
import time
import tty
from pathlib import Path

import pytest
from p11tpm._native import ffi, lib

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.host.ending import Ending
from p11tpm.tpm import Tpm, command, provision, template
from p11tpm.tpm.connection import LostError, SilentError
from p11tpm.tpm.hmac_session import TamperedError
from rig.deadline import exit_code, fork, join
from rig.device import Device, response_of
from rig.process import wait_until
from unit.tpm_ground import SECRET, SO, USER, Ground, create_token, timer_threads


@pytest.fixture
def ground(proxy):
    with Ground(proxy, idle_seconds=0.4) as ground:
        yield ground


# -- what it is made to


@pytest.mark.parametrize(
    "tcti",
    ["swtpm:host=127.0.0.1,port=1", "swtpm:path=/nowhere/socket", "device:/nowhere/tpm", "device:", "device"],
)
def test_no_tpm_there(tcti, capfd):
    with pytest.raises(Error) as caught:
        Tpm(tcti).lockout()
    assert caught.value.rv == CKR.DEVICE_REMOVED
    assert tcti in caught.value.why
    assert timer_threads() == 0
    assert capfd.readouterr() == ("", "")


def test_no_permission_for_the_device(as_nobody, tmp_path):
    device = tmp_path / "tpmrm0"
    device.touch(mode=0o000)

    def work():
        try:
            Tpm(f"device:{device}").lockout()
        except Error as error:
            return error.rv, error.why

    rv, why = as_nobody(work)
    assert rv == CKR.DEVICE_ERROR
    assert "add the user to group tss" in why


def test_an_unknown_connection():
    with pytest.raises(Error) as caught:
        Tpm("nothing:like=this").lockout()
    assert caught.value.rv in {CKR.GENERAL_ERROR, CKR.DEVICE_ERROR, CKR.DEVICE_REMOVED}


def test_a_unix_socket(swtpm, tmp_path):
    path = tmp_path / "tpm.socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                if request := client.recv(4096):
                    client.sendall(response_of(swtpm, request))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    tpm = Tpm(f"swtpm:path={path}")
    assert tpm.lockout().max_tries == 3
    tpm.release()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    join(thread)
    with pytest.raises(Error):
        Tpm("swtpm:path=/" + "x" * 200).lockout()


def test_a_device(swtpm):
    device = Device(swtpm)
    tpm = Tpm(device.tcti)
    provision.provision(tpm)
    so, user = create_token(tpm, SO, USER, SECRET)
    assert tpm.unseal(user, USER) == SECRET
    assert so.public != user.public
    ours = descriptors_of(device)
    assert len(ours) == 1
    assert fcntl.fcntl(ours[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    tpm.release()
    assert not descriptors_of(device)
    assert swtpm.loaded() == []
    device.close()


def descriptors_of(device: Device) -> list[int]:
    """Return our descriptors of a device, but the one that keeps it alive."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if str(link.readlink()) == device.path and int(link.name) != device.slave:
                found.append(int(link.name))
    return found


SEVERAL = """
import os, sys
from p11tpm.tpm import Tpm, template, Key, policy, provision
tpm = Tpm(sys.argv[1], 0.3)
provision.provision(tpm)
so = provision.create_so(tpm, b"s" * 32)
user = provision.create_user(tpm, policy.branches(so.public), b"u" * 32, b"secret")
assert tpm.unseal(user, b"u" * 32) == b"secret"
keys = []
for _ in range(5):
    blob = tpm.create(template.ec("p256"), b"k" * 32)
    keys.append(Key(len(keys), blob.public, blob.private, b"k" * 32))
for key in keys * 2:
    tpm.sign(key, bytes(32))
import time
time.sleep(0.8)
tpm.sign(keys[0], bytes(32))
child = os.fork()
if child == 0:
    tpm.abandon()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
tpm.sign(keys[0], bytes(32))
tpm.release()
print("done")
"""


# Python 3.12 and later warn of a fork beside other threads; here that is what is tried
OUR_THREADS = "ignore:This process:DeprecationWarning"


@pytest.mark.parametrize("way", ["tabrmd", "pcap"])
def test_a_resource_manager_and_what_the_library_knows(tabrmd, tmp_path, way):
    tcti = {"tabrmd": tabrmd.tcti, "pcap": f"pcap:{tabrmd.swtpm.tcti}"}[way]
    done = subprocess.run(
        [sys.executable, "-W", OUR_THREADS, "-c", SEVERAL, tcti],
        env={**os.environ, **tabrmd.env, "TCTI_PCAP_FILE": str(tmp_path / "pcap")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


# -- one that does not answer


@pytest.fixture
def soon(monkeypatch):
    """Have one command, which `Tpm.lockout` sends, wait for a moment only."""
    monkeypatch.setattr(command.GET_CAPABILITY, "seconds", 0.3)


def assert_silent(tpm: Tpm) -> None:
    """Ask a TPM that does not answer: an error in time, and no descriptor is kept."""
    start = time.monotonic()
    with pytest.raises(
        SilentError, match=r"did not answer GetCapability within 0.3 s; the connection was dropped"
    ) as error:
        tpm.lockout()
    assert error.value.rv == CKR.DEVICE_ERROR
    assert 0.2 < time.monotonic() - start < 1.5, "it was not asked a second time"


@pytest.mark.usefixtures("soon")
def test_swtpm_does_not_answer(swtpm):
    tpm = Tpm(swtpm.tcti)
    tpm.lockout()
    with swtpm.frozen():
        assert_silent(tpm)
        assert_silent(tpm)
    assert tpm.lockout().max_tries == 3, "afterwards it is as if nothing had been"
    tpm.release()


@pytest.mark.usefixtures("soon")
def test_a_resource_manager_does_not_answer(tabrmd, monkeypatch):
    for name, value in tabrmd.env.items():
        monkeypatch.setenv(name, value)
    tpm = Tpm(tabrmd.tcti)
    tpm.lockout()
    with tabrmd.swtpm.frozen():
        assert_silent(tpm)
    assert tpm.lockout().max_tries == 32
    tpm.release()


@pytest.mark.usefixtures("soon")
def test_a_device_does_not_answer():
    master, slave = pty.openpty()
    tty.setraw(slave)
    assert_silent(Tpm(f"device:{os.ttyname(slave)}"))
    os.close(slave)
    os.close(master)


@pytest.mark.usefixtures("soon")
def test_what_serves_others_is_waited_for_no_longer(tmp_path):
    """The socket takes nobody in: its queue is full."""
    path = tmp_path / "tpm.socket"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as before:
        listener.bind(str(path))
        listener.listen(0)
        tpm = Tpm(f"swtpm:path={path}")
        tpm.connection.open()
        listener.accept()[0].close()
        before.connect(str(path))
        assert_silent(tpm)


def test_half_a_response_is_not_kept(tmp_path):
    """It may hold a secret: on a bus that is trusted nothing is encrypted."""
    path = tmp_path / "tpm.socket"
    tpm = Tpm(f"swtpm:path={path}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        tpm.connection.open()
        listener.accept()[0].close()  # each command is sent on a connection of its own

        def answer() -> None:
            with listener.accept()[0] as peer:
                peer.recv(4096)
                peer.sendall(bytes.fromhex("80010000004000000000") + b"secret" * 4)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(LostError):
            tpm.connection.transact(bytes.fromhex("80010000000a00000144"), 10)
        join(thread)
    assert not any(bytes(ffi.buffer(tpm.connection._response)))  # noqa: SLF001


def test_who_waits_is_told_to_give_up(swtpm):
    tpm = Tpm(swtpm.tcti)
    tpm.lockout()
    errors = []

    def ask() -> None:
        try:
            tpm.lockout()
        except Error as error:
            errors.append(error.why)

    with swtpm.frozen():
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        wait_until(swtpm.is_asked, "a command for the TPM")
        tpm.connection.give_up()
        join(thread)
    assert [why.partition(";")[0] for why in errors] == [
        "the TPM did not answer GetCapability before its user logged out or ended the run"
    ]
    assert tpm.lockout().max_tries == 3
    tpm.release()


def test_a_connection_that_has_ended_is_not_opened_again(swtpm):
    tpm = Tpm(swtpm.tcti)
    tpm.lockout()
    assert tpm.end(Ending(), for_ever=True)
    with pytest.raises(Error, match="has called C_Finalize"):
        tpm.lockout()
    assert swtpm.loaded() == []


# -- guests


def test_a_forked_child_lets_go_and_the_parent_goes_on(ground, swtpm):
    key = ground.key(template.ec("p256"))
    ground.sign(key)
    ground.proxy.clear()

    def sign_alone() -> int:
        ground.tpm.abandon()
        own = Tpm(ground.proxy.tcti)
        own.bind(ground.srk)
        r, _ = own.sign(key, bytes(32))
        own.release()
        return 0 if r else 1

    assert exit_code(fork(sign_alone)) == 0
    assert ground.proxy.names == ["StartAuthSession", "Load", "Sign", "FlushContext", "FlushContext"]
    ground.proxy.clear()
    ground.sign(key)
    assert ground.proxy.names == ["Sign"]
    assert len(swtpm.loaded()) == 2


def test_a_child_that_abandons_a_device_closes_it(swtpm):
    device = Device(swtpm)
    tpm = Tpm(device.tcti)
    tpm.lockout()
    sent = len(device.commands)

    def let_go() -> int:
        nonlocal tpm
        tpm.abandon()
        left = descriptors_of(device)
        del tpm
        return len(left)

    assert exit_code(fork(let_go)) == 0
    assert len(device.commands) == sent
    tpm.lockout()
    tpm.release()
    device.close()


HEAVY = (
    "logging dataclasses pathlib typing tomllib configparser tpm2_pytss cryptography asn1crypto enum re threading"
    " secrets tempfile contextlib json"
)


def test_light_imports(swtpm):
    code = f"""
import sys
before = set(sys.modules)
from p11tpm.tpm import Tpm
Tpm({swtpm.tcti!r}).lockout()
from p11tpm.tpm import provision
print(*(set(sys.modules) - before) & set({HEAVY!r}.split()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "\n"


def test_errors_say_what_happened_but_no_secrets():
    assert LostError(5).rv == CKR.DEVICE_REMOVED
    assert TamperedError("Sign").rv == CKR.DEVICE_ERROR


@pytest.mark.parametrize(
    ("error", "rv", "remedy"),
    [
        (errno.EBUSY, CKR.DEVICE_ERROR, "use device:/dev/tpmrm0"),
        (errno.EPERM, CKR.DEVICE_ERROR, "group tss"),
        (errno.EINVAL, CKR.GENERAL_ERROR, "correct 'tcti'"),
        (errno.ENOMEM, CKR.HOST_MEMORY, "no memory"),
        (errno.ECANCELED, CKR.DEVICE_REMOVED, "is ending"),
        (errno.EIO, CKR.DEVICE_ERROR, "no TPM at"),
        (lib.CONNECTION_REFUSED_IN_SETUID, CKR.DEVICE_ERROR, "a setuid program"),
    ],
)
def test_what_to_do_about_a_connection_that_is_refused(monkeypatch, error, rv, remedy):
    class Refusing:
        """The extension module, with another answer of the operating system."""

        def __getattr__(self, name: str):
            return (lambda *_: error) if name == "connection_open" else getattr(lib, name)

    monkeypatch.setattr("p11tpm.tpm.connection.lib", Refusing())
    with pytest.raises(Error, match=remedy) as caught:
        Tpm("device:/dev/tpm0").lockout()
    assert caught.value.rv == rv
