"""The module's own Python takes the package's byte code from one file, and an edited source is stronger than that."""

from __future__ import annotations

import ast
import marshal
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import p11tpm
from host.core import WHOLE, changed_files

PACKAGE = Path(p11tpm.__file__).parent
CSRC = Path(__file__).resolve().parents[2] / "csrc"
STANDARD = {"hmac"}  # what Python does not have frozen

# What a copy of the core tells at the end of its import: its modules' loaders, and whether each is what it should be.
PROBE = """
import hmac, sys
def tell(name, module):
    spec, path = module.__spec__, module.__file__
    codes = [value.__code__ for value in vars(module).values() if getattr(value, "__module__", "") == name
             and hasattr(value, "__code__")]
    good = spec.origin == path and spec.loader is module.__loader__ and spec.parent == module.__package__
    return type(module.__loader__).__name__, good and {code.co_filename for code in codes} <= {path}
wanted = {name for name, module in sys.modules.items()
          if name.startswith("p11tpm") and "_native" not in name} | STANDARD
told = {name: tell(name, sys.modules[name]) for name in sorted(wanted)}
with open(ANSWER, "w") as file:
    print({"modules": told, "path": __path__, "more": CKR.FUNCTION_CANCELED, "first": FIRST}, file=file)
"""
# What of the package is there when the last of the first modules begins to run, with its package.
BEGIN = """
import sys
FIRST = [name for name in sys.modules if name.startswith("p11tpm") and "_native" not in name]
"""


class Copy:
    """A copy of the package with its file of byte code, which a module runs; it tells what it imported."""

    def __init__(self, core, hosts, write_bundle, directory):
        self._hosts = hosts
        self._module = core.module
        self._answer = directory / "answer"
        self.package = core.directory / "p11tpm"
        core.write(None)
        first = directory / "p11tpm"
        shutil.copytree(PACKAGE, first, ignore=shutil.ignore_patterns("__pycache__", "bundle.bin"))
        entry = first / "entry" / "__init__.py"
        named = f"ANSWER, STANDARD = {str(self._answer)!r}, {STANDARD}\n"
        text = entry.read_text().replace("from p11tpm.entry import (", f"{BEGIN}from p11tpm.entry import (", 1)
        entry.write_text(f"{text}from p11tpm.ck import CKR\n{named}{PROBE}")
        write_bundle(first, first)
        shutil.copytree(first, self.package)  # the file knows nothing of its place
        self.bundle = self.package / "bundle.bin"

    def edit(self, old, new):
        """Edit ck.py: as many bytes, in the same second."""
        path = self.package / "ck.py"
        before = path.stat()
        text = path.read_text()
        assert len(old) == len(new)
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))

    def sign(self, env):
        """Run a host to a signature: what it said, and what the copy told."""
        self._answer.unlink(missing_ok=True)
        said = self._hosts("sign", self._module, env=env)
        return said, ast.literal_eval(self._answer.read_text())

    def start(self):
        """Run a host that only starts the module."""
        return self._hosts("every", self._module, "start")


@pytest.fixture
def copy(core, hosts, write_bundle, tmp_path):
    yield Copy(core, hosts, write_bundle, tmp_path)
    core.write(None)


def loaders(told):
    assert all(good for _, good in told["modules"].values()), told
    return {name: loader for name, (loader, _) in told["modules"].items()}


def index(bundle):
    data = bundle.read_bytes()
    near, far, states, groups = marshal.loads(data[12 : 12 + int.from_bytes(data[8:12], "little")])
    return {**near, **marshal.loads(far)}, states, groups


def test_the_modules_own_python_takes_everything_from_the_file(copy, user, is_good):
    said, told = copy.sign(user.env)
    assert is_good(said)
    found = loaders(told)
    assert set(found.values()) == {"Finder"}
    assert {"p11tpm", "p11tpm.entry", "p11tpm.entry.sign", "p11tpm.core.token", *STANDARD} <= set(found)
    assert told["path"] == [str(copy.package / "entry")]


def test_the_start_loads_what_its_list_has(copy, user, is_good):
    """The build takes the list from the sources: a module too few is slow, one too many costs each start."""
    said, told = copy.sign(user.env)
    assert is_good(said)
    assert set(told["first"]) == set(told["modules"]) - STANDARD
    *_, groups = index(copy.bundle)
    assert {name for names, *_ in groups["p11tpm.entry"] for name in names} == set(told["first"])


def test_an_edited_source_is_stronger(copy, user, is_good):
    copy.edit("FUNCTION_CANCELED = 0x050", "FUNCTION_CANCELED = 0x777")
    said, told = copy.sign(user.env)
    assert is_good(said)
    assert told["more"] == 0x777
    found = loaders(told)
    assert {name for name, loader in found.items() if loader != "Finder"} == {"p11tpm.ck"}


def test_a_source_that_is_gone_is_gone(copy):
    (copy.package / "core" / "session.py").unlink()
    assert copy.start() == ["C_Initialize 0x5"]


def damage_length(data, size):
    return data[:size]


def flip(data, place):
    place %= len(data)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def other_python(data):
    """Make it as a Python of another magic number does, but for the code: the hashes are by another key."""
    import _imp

    size = 12 + int.from_bytes(data[8:12], "little")
    return _imp.source_hash(1, data[12:size]) + data[8:]


DAMAGES = {
    "empty": lambda _: b"",
    "text": lambda _: b"import os\n" * 100,
    "zeros": lambda data: bytes(len(data)),
    "much too large": lambda data: data[:8] + b"\xff" * 4 + data[12:],
    "half a head": lambda data: damage_length(data, 5),
    "head alone": lambda data: damage_length(data, 12),
    "half an index": lambda data: damage_length(data, 2000),
    "another Python": other_python,
    **{f"bit of byte {place}": lambda data, place=place: flip(data, place) for place in (0, 8, 11, 12, 500)},
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_file_that_is_not_good_is_ignored(copy, user, is_good, how):
    copy.bundle.write_bytes(DAMAGES[how](copy.bundle.read_bytes()))
    said, told = copy.sign(user.env)
    assert is_good(said)
    assert set(loaders(told).values()) == {"SourceLoader"}


@pytest.mark.parametrize("way", ["missing", "directory", "unreadable"])
def test_no_file(copy, user, is_good, way):
    copy.bundle.unlink()
    if way == "directory":
        copy.bundle.mkdir()
    elif way == "unreadable":
        copy.bundle.symlink_to("/proc/self/mem")
    said, told = copy.sign(user.env)
    assert is_good(said)
    assert set(loaders(told).values()) == {"SourceLoader"}


def test_code_that_is_not_good_is_taken_from_the_source(copy, user, is_good):
    """The index is good: all but the modules that are damaged come from the file."""
    data = copy.bundle.read_bytes()
    copy.bundle.write_bytes(data[: len(data) // 2])
    said, told = copy.sign(user.env)
    assert is_good(said)
    assert set(loaders(told).values()) == {"Finder"}, "it goes to the source"
    code = 12 + int.from_bytes(data[8:12], "little")
    copy.bundle.write_bytes(data[:code] + bytes(byte ^ 1 for byte in data[code:]))
    assert is_good(copy.sign(user.env)[0])


def test_a_group_that_is_not_good_is_loaded_one_by_one(copy, user, is_good):
    data = copy.bundle.read_bytes()
    *_, groups = index(copy.bundle)
    begin = 12 + int.from_bytes(data[8:12], "little")
    for parts in groups.values():
        _, start, *_ = parts[len(parts) // 2]
        data = flip(data, begin + start)
    copy.bundle.write_bytes(data)
    said, told = copy.sign(user.env)
    assert is_good(said)
    assert set(loaders(told).values()) == {"Finder"}


GROUP = """
import gc, sys
from pathlib import Path
from bundle import write
from finder import install
package = Path(sys.argv[1])
sources = {"p11tpm.a": "a.py", "p11tpm.b": "b/__init__.py", "p11tpm.b.c": "b/c.py", "p11tpm.entry": "entry.py"}
sources = {name: package / path for name, path in {"p11tpm": "__init__.py", **sources}.items()}
bundle = memoryview(write(sources, package, package.parent / "bundle.bin").read_bytes())
install(str(package), bundle, str, lambda _: set(), int)
import builtins
builtins.fails = True
try:
    import p11tpm.entry
except MemoryError:
    print(*sorted(name for name in sys.modules if name.startswith("p11tpm")), gc.isenabled())
import p11tpm
print(hasattr(p11tpm, "b"))
builtins.fails = False
import p11tpm.entry
from p11tpm import b
print(b.c.made, p11tpm.entry.b is b, sys.modules["p11tpm.b.c"] is b.c, gc.isenabled())
"""


def test_a_group_that_could_not_be_loaded_is_loaded_later(write_bundle, tmp_path):  # noqa: ARG001 - it brings csrc
    """What memory did not suffice for is not taken for loaded, and neither is the package that it is in."""
    texts = {"__init__": "", "a": "", "b/__init__": "from p11tpm.b import c\n", "entry": "from p11tpm import a, b\n"}
    texts["b/c"] = "import builtins\nif builtins.fails:\n    raise MemoryError\nmade = 1\n"
    for name, text in texts.items():
        place = tmp_path / "p11tpm" / f"{name}.py"
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    command = [sys.executable, "-c", GROUP, tmp_path / "p11tpm"]
    env = {**os.environ, "PYTHONPATH": str(CSRC)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.stdout) == ("", "p11tpm p11tpm.a True\nFalse\n1 True True True\n")


def test_the_build_leaves_a_file_that_fits():
    """The checkout's own, but for sources that were edited since."""
    bundle = PACKAGE / "bundle.bin"
    assert bundle.stat().st_mode & 0o777 == 0o644
    modules, states, groups = index(bundle)
    assert {"p11tpm", "p11tpm.entry", "p11tpm.tpm.wire", "p11tpm._native", *STANDARD} <= set(modules)
    assert all(parts[-1][0][-1] == last for last, parts in groups.items())
    for source, telling, *_ in modules.values():
        assert telling == source or (source.endswith(".py") and Path(source).parent == Path(telling).parent)
    for path, (time, size) in states.items():
        status = (PACKAGE / path).stat()
        if status.st_mtime < bundle.stat().st_mtime:
            assert (time, size) == (status.st_mtime_ns, status.st_size)


def test_an_upgrade_of_another_package_is_noticed(write_bundle, tmp_path):  # noqa: ARG001 - it brings csrc
    """One file tells for its directory, since an upgrade replaces all."""
    from bundle import write
    from finder import Finder

    package, other = tmp_path / "p11tpm", tmp_path / "other"
    sources = {"p11tpm.one": package / "one.py", "other": other / "__init__.py", "other.inner": other / "inner.py"}
    for source in sources.values():
        source.parent.mkdir(exist_ok=True)
        source.write_text("")
    bundle = write(sources, package, tmp_path / "bundle.bin").read_bytes()

    def found(name):
        spec = Finder(str(package), memoryview(bundle), str, changed_files(package), int).find_spec(name)
        return spec is not None and type(spec.loader) is Finder

    assert all(found(name) for name in sources)
    (other / "__init__.py").write_text("# another version")
    assert [found(name) for name in sources] == [True, False, False]


def test_types_are_left_out_of_the_file(write_bundle, tmp_path):  # noqa: ARG001 - it brings csrc
    from bundle import compiled

    source = tmp_path / "one.py"
    source.write_text(
        "from __future__ import annotations\nTYPE_CHECKING = False\nif TYPE_CHECKING:\n    from there import Thing\n"
        "def f(a: Thing, *b: Thing, c: Thing = 1) -> Thing:\n    'Text.'\n    return a, b, c\n"
        "d: Thing = 2\ne: Thing\nclass G:\n    h: Thing\n    i: Thing = 3\n"
    )
    names = {}
    exec(marshal.loads(compiled(source)), names)
    assert names["f"](1, 2) == (1, (2,), 1)
    assert names["f"].__annotations__ == {}
    assert (names["d"], "e" in names, names["G"].i) == (2, False, 3)
    assert not any("__annotations__" in part for part in (names, vars(names["G"])))
    assert b"there" not in compiled(source)
    assert b"__future__" not in compiled(source)
    assert b"Text" not in compiled(source)


def test_a_source_with_an_error_is_left_out(write_bundle, tmp_path):
    package = tmp_path / "p11tpm"
    package.mkdir()
    (package / "good.py").write_text("")
    (package / "bad.py").write_text("def")
    content = write_bundle(package, tmp_path).read_bytes()
    assert b"p11tpm.good" in content
    assert b"p11tpm.bad" not in content


def test_a_host_that_is_python_keeps_its_own_finders(user):
    program = """
import ctypes, gc, sys
before = list(sys.meta_path)
assert ctypes.CDLL(sys.argv[1]).C_Initialize(None) == 0
assert sys.meta_path == before and "_p11tpm_finder" not in sys.modules and gc.isenabled()
print(type(sys.modules["p11tpm.core.token"].__loader__).__name__)
"""
    command = [sys.executable, "-I", "-c", program, user.module]
    done = subprocess.run(command, env=user.env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "SourceFileLoader\n", "")


def test_garbage_is_collected_again_when_all_is_loaded(core, hosts, tmp_path):
    answer = tmp_path / "answer"
    text = f"{WHOLE}import gc\nfirst = gc.isenabled()\ndef tell(*args):\n"
    text += f"  with open({str(answer)!r}, 'w') as file: file.write(f'{{first}} {{gc.isenabled()}}')\n"
    text += "  return lib.FINISHED\nattach(['py_C_GetInfo'], tell)"
    assert hosts("every", core.write(text), "start", "C_GetInfo") == ["C_Initialize 0x0", "C_GetInfo 0x0"]
    assert answer.read_text() == "False True"
