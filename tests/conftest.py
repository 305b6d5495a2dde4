"""What every test may ask for: TPMs, environments of host programs, the command line, PIN files."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

import rig
from rig.p11_kit import system_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Tpm = rig.Swtpm | rig.Tabrmd | rig.CountingProxy

USER_PIN = "123456"
SO_PIN = "so-secret"
hypothesis.settings.register_profile("p11tpm", deadline=None)  # a busy machine makes an example slow, not wrong
hypothesis.settings.load_profile("p11tpm")
CLI = Path(sys.prefix) / "bin" / "p11tpm"


def pytest_configure() -> None:
    """What tests start gets what a login shell gives, however this was started.

    A signal that is ignored here, as SIGINT is after `make test &` in a script and SIGHUP after nohup, is ignored by
    all programs that are started here; one that is caught is not (execve(2)). So it is caught, and nothing is done.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    socket.setdefaulttimeout(60)  # no socket of a test waits longer


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("clients")
    group.addoption("--peer", action="store_true", help="tpm2-pkcs11 does the clients' checks, too; it may fail")
    group.addoption("--table", type=Path, help="write a table of clients, checks and results to this file")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs tpm2-abrmd needs its packages."""
    for item in items:
        if "tabrmd" in getattr(item, "fixturenames", ()):
            item.add_marker("packages")


@pytest.fixture
def swtpm() -> Iterator[rig.Swtpm]:
    """A TPM that no other test has touched, with a dictionary-attack limit of 3 tries."""
    with rig.Swtpm() as tpm:
        yield tpm


@pytest.fixture
def proxy(swtpm: rig.Swtpm) -> Iterator[rig.CountingProxy]:
    """The wire to `swtpm`."""
    with rig.CountingProxy(swtpm) as between:
        yield between


@pytest.fixture
def tabrmd() -> Iterator[rig.Tabrmd]:
    """A TPM that several processes may use at a time."""
    with rig.Tabrmd(max_tries=32) as broker:
        yield broker


@pytest.fixture
def p11_kit_settings() -> Iterator[None]:
    """No other test installs the module for p11-kit meanwhile."""
    with system_settings():
        yield


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The directory of a store that does not exist yet."""
    return tmp_path / "store"


@pytest.fixture
def host_env(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Environment of a host program: `host_env(tpm_or_tcti, store)`; by default `swtpm` and the store of this test."""

    def make(tpm: Tpm | str | None = None, where: Path | None = None) -> dict[str, str]:
        place = request.getfixturevalue("swtpm") if tpm is None else tpm
        tcti, more = (place, {}) if isinstance(place, str) else (place.tcti, place.env)
        config = rig.write_secret(tmp_path / "p11tpm.conf", "")  # the machine's own settings must not be read
        where = where or tmp_path / "store"
        places = {"P11TPM_TCTI": tcti, "P11TPM_STORE": str(where), "P11TPM_CONF": str(config)}
        return rig.clean_env(**rig.sanitizers(), **places, **more)

    return make


@pytest.fixture(scope="session")
def module_path() -> str:
    """Absolute path of the PKCS#11 module, as `make build` made it."""
    env = rig.clean_env(**rig.sanitizers())
    done = subprocess.run([CLI, "module"], env=env, capture_output=True, text=True, timeout=60, check=True)
    path = done.stdout.strip()
    assert Path(path).is_absolute(), path
    return path


@pytest.fixture
def pin_file(tmp_path: Path) -> Path:
    """A file with the user's PIN."""
    return rig.write_secret(tmp_path / "pin", USER_PIN + "\n")


@pytest.fixture
def so_pin_file(tmp_path: Path) -> Path:
    """A file with the security officer's PIN."""
    return rig.write_secret(tmp_path / "so-pin", SO_PIN + "\n")


@pytest.fixture
def p11tpm_cli(host_env: Callable[..., dict[str, str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`p11tpm_cli(*args, input=None, env=None)`: the command, on `swtpm` unless `env` says else."""

    def run(*args: str | Path, input: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:  # noqa: A002 - as in subprocess
        return subprocess.run(
            [str(CLI), *map(str, args)],
            env=env or host_env(),
            input=input,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
