"""No code comes from a root directory that the host has changed to, nor from where others may write."""

from __future__ import annotations

import os
import py_compile
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

import p11tpm
import rig
from host.core import WHOLE, changed_files

PACKAGE = Path(p11tpm.__file__).parent
STANDARD = [Path(sysconfig.get_path(name, vars={"base": sys.base_prefix})) for name in ("stdlib", "platstdlib")]
PACKAGES = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
# What holds modules of the standard library, of what the package depends on, and of the package.
# Where modules are: of the standard library, of what the package depends on, and its own.
PLACES = [(place, pattern) for place in STANDARD for pattern in ("*", "*/*")]
PLACES += [(place, pattern) for place in PACKAGES for pattern in ("*", "cryptography/**/*", "asn1crypto/*")]
PLACES += [(PACKAGE, "**/*")]

OK, GENERAL_ERROR, NOT_INITIALIZED = "0x0", "0x5", "0x190"
SIGNATURES = ("ECDSA again", "ECDSA_SHA384", "RSA", "C_GenerateRandom")
AFTER = {  # what works after the root directory was changed, by the step before
    "sign": SIGNATURES,
    "login": ("ECDSA", *SIGNATURES),
    "session": ("C_Login", "ECDSA", *SIGNATURES),
}

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can change the root directory")


def plant(jail: Path, planted: dict[str, Path]) -> None:
    """Put code that leaves a mark, by its suffix, where every module and extension module of the outside is."""
    for place, pattern in PLACES:
        for source in place.glob(pattern):
            target = jail / str(source)[1:]
            if source.suffix in planted and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(planted[source.suffix], target)


@pytest.fixture(scope="module")
def owner(tmp_path_factory):
    """Somebody with an EC and an RSA key."""
    with rig.Swtpm() as tpm:
        user = rig.User(tpm, tmp_path_factory.mktemp("owner"))
        user.init_keys({"ec": "p256", "rsa": "rsa2048"})
        yield user


@pytest.fixture(scope="module")
def jail(hosts, owner, tmp_path_factory):
    """A directory with the owner's files, as those who prepare such a directory have it, and a lot of planted code."""
    place = tmp_path_factory.mktemp("place")
    directory = place / "jail"
    shutil.copytree(owner.store, directory / str(owner.store)[1:])
    (directory / "marks").mkdir()
    script = place / "mark.py"
    script.write_text("import posix\nposix.close(posix.open('/marks/' + __name__, posix.O_CREAT))\n")
    shared = Path(shutil.copy(hosts.program("mark", "-shared", "-fPIC"), place / "mark.so"))
    plant(directory, {".py": script, ".so": shared})
    for path in directory.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return directory


def settings(owner, jail, text):
    """Return an environment with other settings, outside and inside."""
    path = owner.directory / "other.conf"
    for place in (path, jail / str(path)[1:]):
        rig.write_secret(place, text)
    return {**owner.env, "P11TPM_CONF": str(path)}


@as_root
@pytest.mark.parametrize("step", ["load", "initialize", *AFTER])
def test_no_code_comes_from_a_new_root(hosts, owner, jail, syslog, step):
    env = {**settings(owner, jail, ""), **syslog.env}
    said = dict(line.rsplit(" ", 1) for line in hosts("jail", owner.module, jail, step, env=env))
    assert not list((jail / "marks").iterdir())
    assert {name: said[name] for name in AFTER.get(step, ())} == dict.fromkeys(AFTER.get(step, ()), OK)
    assert said["verify"] != OK, "it needs an extension module"
    assert "0xa0" not in said.values()


@as_root
def test_the_log_says_why(hosts, owner, jail):
    log = owner.directory / "log"
    assert "verify 0x5" in hosts("jail", owner.module, jail, "login", env=settings(owner, jail, f"log = {log}\n"))
    (line,) = [line for line in (jail / str(log)[1:]).read_text().splitlines() if "ImportError" in line]
    assert "C_VerifyInit: CKR_GENERAL_ERROR: ImportError: the program has changed its root directory since " in line
    assert "cannot be loaded any more: start the program again" in line


# -- upgrades: what a process began with is what it goes on with


UPGRADED = """
import posix
def tell(*args):
    for move in MOVES:
        posix.rename(*move)
    from p11tpm.later import VALUE
    with open(ANSWER, "w") as file:
        file.write(VALUE)
    return lib.FINISHED
attach(["py_C_GetInfo"], tell)
"""


@pytest.fixture
def upgraded(core, tmp_path):
    """Return a core that, while the program runs, is replaced by another version as a whole or in part."""

    def write(what: str) -> tuple[Path, Path]:
        package, new, answer = core.directory / "p11tpm", tmp_path / "new", tmp_path / "answer"
        moves = {
            "file": [(str(new / "later.py"), str(package / "later.py"))],
            "package": [(str(package), str(tmp_path / "old")), (str(new), str(package))],
        }
        module = core.write(f"{WHOLE}\nMOVES, ANSWER = {moves[what]}, {str(answer)!r}\n{UPGRADED}")
        (package / "later.py").write_text("VALUE = 'the first'\n")
        shutil.copytree(package, new)
        (new / "later.py").write_text("VALUE = 'another version'\n")
        return module, answer

    return write


@pytest.mark.parametrize("what", ["file", "package"])
def test_an_upgrade_does_not_mix_versions(hosts, core, upgraded, write_bundle, what):
    module, answer = upgraded(what)
    write_bundle(core.directory / "p11tpm", core.directory / "p11tpm")
    assert hosts("every", module, "start", "C_GetInfo") == [f"C_Initialize {OK}", f"C_GetInfo {OK}"]
    assert answer.read_text() == "the first"


def test_without_byte_code_in_memory_nothing_is_loaded_after_an_upgrade(hosts, upgraded):
    module, answer = upgraded("package")
    assert hosts("every", module, "start", "C_GetInfo") == [f"C_Initialize {OK}", f"C_GetInfo {GENERAL_ERROR}"]
    assert not answer.exists()


def test_an_extension_module_that_was_replaced_is_not_loaded(write_bundle, tmp_path):  # noqa: ARG001 - it brings csrc
    from finder import Finder, pack

    place = tmp_path / "extension.so"
    place.touch()
    status = place.stat()
    states = {str(place): (status.st_mtime_ns, status.st_size)}
    bundle = memoryview(pack({"extension": (str(place), str(place), b"")}, states))
    finder = Finder(str(tmp_path), bundle, str, changed_files(tmp_path), int)
    assert finder.find_spec("extension").loader.path == str(place)
    place.write_bytes(b"another version")
    with pytest.raises(ImportError, match="was replaced since C_Initialize: start the program again"):
        finder.find_spec("extension")


# -- places that others may write to


def spoil_mode(path):
    path.chmod(path.stat().st_mode | 0o002)


def spoil_owner(path):
    os.chown(path, 12345, 12345)


def spoil_group(path):
    os.chown(path, -1, 12345)
    path.chmod(path.stat().st_mode | 0o020)


SPOILS = {
    "mode": (spoil_mode, "other users may write to {}: no code is taken from there; run 'chmod go-w' on it"),
    "group": (spoil_group, "other users may write to {}: no code is taken from there; run 'chmod go-w' on it"),
    "owner": (spoil_owner, "{} belongs to another user (uid 12345): no code is taken from there"),
}


def complaint(hosts, module, syslog):
    """Return the one line that a module leaves that does not load."""
    said = hosts("every", module, "start", "C_GetInfo", env=rig.clean_env(**syslog.env))
    assert said == [f"C_Initialize {GENERAL_ERROR}", f"C_GetInfo {NOT_INITIALIZED}"]
    (line,) = syslog.lines()
    return line


@pytest.fixture
def place(core):
    """The directory that the core is in, as it was afterwards."""
    yield core.directory
    os.chown(core.directory, os.getuid(), os.getgid())
    core.directory.chmod(0o755)


@pytest.mark.parametrize("what", ["p11tpm/entry.py", "p11tpm/__init__.py", "p11tpm", "p11tpm/bundle.bin", "."])
@pytest.mark.parametrize("how", SPOILS)
def test_code_that_others_may_change_is_not_loaded(hosts, core, place, syslog, how, what):
    if os.getuid() and how != "mode":
        pytest.skip("only root can give files away")
    module = core.write(WHOLE)
    (place / "p11tpm" / "bundle.bin").touch()
    spoil, says = SPOILS[how]
    spoil(place / what)
    assert says.format((place / what).resolve()) in complaint(hosts, module, syslog)


@pytest.mark.parametrize("how", SPOILS)
def test_byte_code_that_others_may_change_is_not_loaded(hosts, core, place, syslog, how):
    if os.getuid() and how != "mode":
        pytest.skip("only root can give files away")
    module = core.write(WHOLE)
    cached = Path(py_compile.compile(str(place / "p11tpm" / "entry.py")))
    assert hosts("every", module, "start", env=rig.clean_env(**syslog.env)) == [f"C_Initialize {OK}"]
    spoil, says = SPOILS[how]
    spoil(cached)
    assert says.format(cached) in complaint(hosts, module, syslog)


@pytest.mark.parametrize("how", SPOILS)
def test_an_extension_module_that_others_may_change_is_not_loaded(hosts, core, place, syslog, how):
    if os.getuid() and how != "mode":
        pytest.skip("only root can give files away")
    module = core.write(f"import p11tpm.extension\n{WHOLE}")
    extension = place / "p11tpm" / f"extension{sysconfig.get_config_var('EXT_SUFFIX')}"
    shutil.copy(hosts.program("mark", "-shared", "-fPIC"), extension)
    assert "dynamic module does not define" in complaint(hosts, module, syslog)
    spoil, says = SPOILS[how]
    spoil(extension)
    assert says.format(extension) in complaint(hosts, module, syslog)


def test_a_group_of_ones_own_may_write(hosts, core, place, syslog):
    """Where each user has a group of the same number, many work with a umask of 002."""
    module = core.write(WHOLE)
    if os.getuid() != os.getgid():
        pytest.skip("this user has no group of the same number")
    for path in (place, *place.rglob("*")):
        path.chmod(path.stat().st_mode | 0o020)
    assert hosts("every", module, "start", env=rig.clean_env(**syslog.env)) == [f"C_Initialize {OK}"]
    assert not syslog.lines()
