"""nginx with its key in the token: the master reads the key, and the workers are forked after that.

`ssl_engine` makes libp11 the default of OpenSSL for all algorithms.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from rig import confined
from rig.debian_nginx import WORKERS, DebianNginx
from rig.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HARDENED = Path(__file__).resolve().parents[2] / "systemd" / "nginx.service.d" / "hardened.conf"
AS_WWW_DATA = ("/usr/bin/setpriv", "--reuid=www-data", "--regid=www-data", "--init-groups", "--no-new-privs")
root = pytest.mark.skipif(os.getuid() != 0, reason="only root can start nginx as another user")


@pytest.fixture(scope="module")
def broker() -> Iterator[rig.Tabrmd]:
    with rig.Tabrmd(max_tries=32) as tpm:
        tpm.swtpm.directory.chmod(0o711)  # the bus is for other users, too
        yield tpm


@pytest.fixture(scope="module")
def site(broker: rig.Tabrmd, new_user: Callable[..., rig.User]) -> Iterator[DebianNginx]:
    """Set up by the recipe, not running."""
    yield from set_up(broker, new_user)


def set_up(tpm: rig.Tabrmd, new_user: Callable[..., rig.User], algorithm: str = "p256") -> Iterator[DebianNginx]:
    with tempfile.TemporaryDirectory(prefix="p11tpm-nginx-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        user = new_user(tpm, directory)
        user.init("p11tpm")
        for settings in directory.glob("*.conf"):
            settings.chmod(0o644)
        yield DebianNginx(user, directory / "nginx", algorithm)


@pytest.fixture
def nginx(site: DebianNginx) -> Iterator[DebianNginx]:
    site.start()
    yield site
    site.stop()


def check_quiet(server: DebianNginx) -> None:
    """Nothing of ours is in the log."""
    said = server.said()
    assert "p11tpm" not in said.replace(str(server.directory), ""), said
    assert "[emerg]" not in said
    assert "[crit]" not in said


def test_requests_to_four_workers(nginx: DebianNginx) -> None:
    nginx.gets()
    nginx.each_worker_gets()
    check_quiet(nginx)


def test_reload(nginx: DebianNginx) -> None:
    for _ in range(2):
        nginx.gets(8)
        nginx.reload()
        nginx.each_worker_gets()
    check_quiet(nginx)


def test_a_worker_is_killed_and_replaced(nginx: DebianNginx) -> None:
    nginx.each_worker_gets()
    killed = min(nginx.workers())
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in nginx.workers() and len(nginx.workers()) == WORKERS, "a new worker")
    nginx.each_worker_gets()
    check_quiet(nginx)


def test_restart(nginx: DebianNginx) -> None:
    nginx.gets(8)
    nginx.stop()
    nginx.start()
    nginx.each_worker_gets()
    check_quiet(nginx)


def test_the_tpm_restarts(nginx: DebianNginx, broker: rig.Tabrmd) -> None:
    nginx.each_worker_gets()
    broker.swtpm.restart()
    nginx.each_worker_gets()
    check_quiet(nginx)


def test_the_resource_manager_restarts(nginx: DebianNginx, broker: rig.Tabrmd) -> None:
    nginx.each_worker_gets()
    broker.restart()
    nginx.each_worker_gets()
    check_quiet(nginx)


def test_nothing_is_left_in_the_tpm(nginx: DebianNginx, broker: rig.Tabrmd) -> None:
    nginx.each_worker_gets()
    nginx.stop()
    wait_until(lambda: broker.swtpm.loaded() == [], "tpm2-abrmd flushing what was left", 5)


def test_wrong_pin(site: DebianNginx, broker: rig.Tabrmd) -> None:
    """nginx says which key it cannot have, and does not start."""
    before = broker.swtpm.lockout_counter()
    rig.write_secret(site.user.pin_file, "wrong-pin")
    try:
        with pytest.raises(ChildProcessError, match="cannot load certificate key"):
            site.start()
        assert broker.swtpm.lockout_counter() == before + 1
        assert "cannot load certificate key" in site.test().stderr
        assert broker.swtpm.lockout_counter() == before + 2
    finally:
        rig.write_secret(site.user.pin_file, site.user.pin)
        site.stop()
        (site.log / "error.log").unlink(missing_ok=True)
        (site.directory / "output").unlink(missing_ok=True)


@root
def test_workers_of_another_user(nginx: DebianNginx) -> None:
    """The store and the PIN stay root's."""
    nginx.each_worker_gets()
    assert {Path(f"/proc/{pid}").owner() for pid in nginx.workers()} == {"www-data"}
    assert Path(f"/proc/{nginx.master()}").owner() == "root"
    assert {path.owner() for path in (nginx.user.pin_file, nginx.user.store, *nginx.user.store.iterdir())} == {"root"}


@root
def test_hardened(broker: rig.Tabrmd, new_user: Callable[..., rig.User]) -> None:
    """All of it as www-data, with the capabilities and system calls that the unit leaves; the store stays root's."""
    for server in set_up(broker, new_user):
        pin = rig.write_secret(server.directory / "credential", server.user.pin)
        shutil.chown(pin, "www-data")
        server.read_pin_from(pin)
        for part in ("run", "log", "lib"):
            shutil.chown(server.directory / part, "www-data")
        [[capability]] = confined.setting(HARDENED, "AmbientCapabilities")
        kept = f"+{capability.removeprefix('CAP_').lower()}"
        powers = [f"--bounding-set=-all,{kept}", f"--inh-caps=-all,{kept}", f"--ambient-caps=-all,{kept}"]
        server.start(*AS_WWW_DATA, *powers, sys.executable, Path(confined.__file__), HARDENED)
        try:
            server.each_worker_gets()
            server.reload()
            server.each_worker_gets()
            everybody = {server.master(), *server.workers()}
            assert {Path(f"/proc/{pid}").owner() for pid in everybody} == {"www-data"}
        finally:
            server.stop()
        check_quiet(server)


def test_rsa(broker: rig.Tabrmd, new_user: Callable[..., rig.User]) -> None:
    for server in set_up(broker, new_user, "rsa2048"):
        server.start()
        try:
            server.gets()
            server.reload()
            server.each_worker_gets()
        finally:
            server.stop()
        check_quiet(server)
