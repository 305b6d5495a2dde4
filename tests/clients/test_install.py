"""`make install` and `make uninstall`."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from rig.p11_kit import system_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[2]
USUAL = Path("/usr/local")
P11_KIT = Path("/etc/pkcs11")


def make(*arguments: str) -> None:
    command: list[str | Path] = ["/usr/bin/make", "--no-print-directory", "-C", CHECKOUT, *arguments]
    env = {**rig.clean_env(), **{name: os.environ[name] for name in os.environ if name.startswith("PIP_")}}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def files(directory: Path) -> set[Path]:
    """What is below `directory`, but no empty directories."""
    return {path for path in directory.rglob("*") if not path.is_dir()}


def in_checkout() -> set[Path]:
    """The files of the checkout, without what Python and the tools of the tests keep."""
    kept = {".venv", ".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"}
    return {path for path in files(CHECKOUT) if not kept & set(path.relative_to(CHECKOUT).parts)}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A prefix of our own, with the p11tpm that was installed there."""
    prefix = tmp_path_factory.mktemp("install") / "a prefix"
    before = in_checkout()
    make("install", f"PREFIX={prefix}")
    assert in_checkout() == before
    yield prefix
    make("uninstall", f"PREFIX={prefix}")
    assert files(prefix) == set()


@pytest.fixture
def usual() -> Iterator[Path]:
    """/usr/local, for root on a machine where p11tpm is not installed."""
    if os.getuid() != 0:
        pytest.skip("only root installs below /usr/local")
    if (USUAL / "lib" / "p11tpm").exists():
        pytest.skip("p11tpm is installed on this machine, and stays so")
    with system_settings(change=True):
        yield from as_usual()


def as_usual() -> Iterator[Path]:
    before = files(USUAL), files(P11_KIT), P11_KIT.exists()
    try:
        make("install")
        yield USUAL
    finally:
        make("uninstall")
    assert (files(USUAL), files(P11_KIT), P11_KIT.exists()) == before


def installed_user(prefix: Path, directory: Path, tpm: rig.Swtpm) -> rig.User:
    user = rig.User(tpm, directory)
    user.command = prefix / "bin" / "p11tpm"
    return user


def check_login(user: rig.User, sshd: rig.Sshd) -> None:
    sshd.authorize(user.public_key("ssh"))
    done = sshd.login("-o", f'PKCS11Provider="{user.module}"', env=user.env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "welcome\n", "")


def test_module_is_a_regular_file(elsewhere: Path, swtpm: rig.Swtpm, tmp_path: Path) -> None:
    module = elsewhere / "lib" / "pkcs11" / "p11tpm.so"
    assert installed_user(elsewhere, tmp_path, swtpm).module == str(module)
    assert stat.S_ISREG(module.lstat().st_mode)
    assert stat.S_IMODE(module.lstat().st_mode) & 0o777 == 0o755
    registered = elsewhere / "etc" / "pkcs11" / "modules" / "p11tpm.module"
    assert f"module: {module}" in registered.read_text()


def test_units_name_the_module(elsewhere: Path) -> None:
    units = elsewhere / "lib" / "systemd" / "system"
    assert {path.name for path in units.iterdir()} == {path.name for path in (CHECKOUT / "systemd").glob("*.service")}
    assert f" {elsewhere}/lib/pkcs11/p11tpm.so" in (units / "ssh-host-agent.service").read_text()


def test_copy_is_self_contained(elsewhere: Path) -> None:
    """Nothing points back to the checkout."""
    places = [*(elsewhere / "lib").rglob("p11tpm*"), *(elsewhere / "lib").rglob("_native*")]
    for path in [elsewhere / "lib/pkcs11/p11tpm.so", *places]:
        if path.is_file():
            assert bytes(CHECKOUT) not in path.read_bytes(), path
    where = "import p11tpm; print(p11tpm.__file__)"
    python = elsewhere / "lib" / "p11tpm" / "bin" / "python"
    done = subprocess.run([python, "-c", where], cwd="/", capture_output=True, text=True, timeout=60, check=True)
    assert Path(done.stdout.strip()).is_relative_to(elsewhere)


def test_login_with_the_copy(elsewhere: Path, swtpm: rig.Swtpm, sshd: rig.Sshd, tmp_path: Path) -> None:
    user = installed_user(elsewhere, tmp_path, swtpm)
    user.init()
    check_login(user, sshd)


def test_usual_place(usual: Path, swtpm: rig.Swtpm, sshd: rig.Sshd, tmp_path: Path) -> None:
    """Ssh-agent takes the module with its own list of allowed places, and p11-kit knows it."""
    user = installed_user(usual, tmp_path, swtpm)
    assert user.module == "/usr/local/lib/pkcs11/p11tpm.so"
    user.init("usual")
    check_login(user, sshd)
    with rig.Agent(user.env) as agent:
        assert agent.ssh_add("-s", user.module).returncode == 0, agent.log
        done = sshd.login("-o", f'IdentityAgent="{agent.socket}"', env=user.env)
        assert (done.returncode, done.stdout, done.stderr) == (0, "welcome\n", "")
    user.env["HOME"] = str(tmp_path)  # p11-kit starts all modules of the machine: let them write where it does no harm
    listed = user.run("/usr/bin/p11-kit", "list-modules").stdout.decode()
    assert "p11tpm" in listed
    assert "token: usual" in listed
