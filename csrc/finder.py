"""Where the interpreter that the module itself started finds its code: in one file instead of in a hundred.

build.py compiles this into the module and writes the file, `bundle.bin` in the package. That holds the byte code of
all modules that can be needed, with the time and size of each source of ours and of one file of each other directory,
which an upgrade changes like all others. A source that is not as it was then when the process starts is imported from
its path, and so is everything if the file is missing, damaged or for another Python.

From then on the file's modules are loaded from memory: neither chroot(2) nor an upgrade changes what they are. Nothing
comes from a path but what is not in the file, or is an extension module, and it has to pass csrc/origin.c.
"""

import _imp
import gc
import marshal
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import (
    MAGIC_NUMBER,
    ExtensionFileLoader,
    PathFinder,
    SourceFileLoader,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import CodeType, ModuleType

    States = dict[str, tuple[int, int]]
    Modules = dict[str, tuple[str, str, int, int, bytes]]
    Part = tuple[tuple[str, ...], int, int, bytes]

NAME = "bundle.bin"
FORMAT = 4
KEY = int.from_bytes(MAGIC_NUMBER[:2], "little") << 8 | FORMAT  # magic number: what changes with the byte code
HASH_SIZE = 8  # bytes, _imp.source_hash
HEAD_SIZE = HASH_SIZE + 4
PART_SIZE = 32 << 10  # bytes, roughly: what a part takes in memory, all its modules share


def pack(
    modules: "dict[str, tuple[str, str, bytes]]", states: "States", groups: "Sequence[Sequence[str]]" = ()
) -> bytes:
    """Return the content of the file: hash and size (32 bits) of an index, the index, and marshalled code.

    Of each module, by name: the path of its source; the path of the file that tells whether that was changed, itself
    or another one of the same directory; the marshalled code, empty for an extension module. The index has, instead of
    this code, where it begins behind the index, its size, and its hash. Hashes are by a key that says which Python they
    are for. Paths begin at the package's directory unless they are absolute.
    Sources outside of the package are in an index of their own, in the same form, that is read when it is needed.
    `states`: the time of the last change (ns) and the size (bytes) of each file that tells. `groups`: modules that the
    last of them needs, in the order in which they end loading; the file has their code once more, in parts of several
    modules each, in which there is only once what these have in common.
    """
    near: Modules = {}
    far: Modules = {}
    rest = bytearray()

    def placed(code: bytes) -> "tuple[int, int, bytes]":
        rest.extend(code)
        return len(rest) - len(code), len(code), _imp.source_hash(KEY, code)

    for name, (source, telling, code) in modules.items():
        (far if code and source[0] == "/" else near)[name] = (source, telling, *placed(code))
    parts = {group[-1]: [(names, *placed(code)) for names, code in _parts(modules, group)] for group in groups}
    head = marshal.dumps((near, marshal.dumps(far), states, parts))
    return _imp.source_hash(KEY, head) + len(head).to_bytes(4, "little") + head + rest


def _parts(
    modules: "dict[str, tuple[str, str, bytes]]", group: "Sequence[str]"
) -> "Iterator[tuple[tuple[str, ...], bytes]]":
    """Return the parts of a group: the names of their modules, and the marshalled code of these."""
    names: list[str] = []
    for name in group:
        names.append(name)
        if name == group[-1] or sum(len(modules[one][2]) for one in names) > PART_SIZE:
            codes = [marshal.loads(modules[one][2]) for one in names]  # noqa: S302 - as it was written just now
            yield tuple(names), marshal.dumps(codes)
            names.clear()


class SourceLoader(SourceFileLoader):
    """Loads a module from its source, or from the byte code beside that."""

    def __init__(self, name: str, source: str, trusted: "Callable[[str], str]") -> None:
        super().__init__(name, source)
        self._trusted = trusted

    def get_data(self, path: str) -> bytes:
        """Read a file; ImportError if somebody else may change it."""
        return super().get_data(self._trusted(path))


class Finder:
    """Finds and loads what is in the file and was not changed before the start, and finds on paths what may be trusted.

    It does what importlib asks for and no more: what that does for a module of its own takes as long as the module.
    """

    def __init__(
        self,
        directory: str,
        bundle: "memoryview | None",
        trusted: "Callable[[str], str]",
        changed: "Callable[[States], set[str]]",
        release: "Callable[[], None]",
    ) -> None:
        """Read the index; there is nothing in it if it is not good.

        `trusted` gives a path without links, or raises ImportError if no code may be taken from there.
        `changed` gives the files that are not as they were.
        `release` gives back the memory of the file: Linux reads it again when it is needed.
        """
        self._release = release
        self._directory = directory
        self._trusted = trusted
        self._changed = changed
        bundle = memoryview(b"") if bundle is None else bundle
        end = HEAD_SIZE + int.from_bytes(bundle[HASH_SIZE:HEAD_SIZE], "little")
        index = bundle[HEAD_SIZE:end]
        good = bundle[:HASH_SIZE] == _imp.source_hash(KEY, index)
        # nobody else may change the file
        near, self._far, self._states, self._groups = marshal.loads(index) if good else ({}, b"", {}, {})  # noqa: S302
        self._lost = changed(self._states)
        self._modules: Modules = self._same(near)
        self._codes = bundle[end:]

    def _same(self, modules: "Modules") -> "Modules":
        """Return those whose source was not changed before the start."""
        if not self._lost:
            return modules
        return {name: module for name, module in modules.items() if module[1] not in self._lost}

    def _path(self, source: str) -> str:
        return source if source[0] == "/" else f"{self._directory}/{source}"

    def find_spec(self, name: str, path: "Sequence[str] | None" = None, target: object = None) -> "ModuleSpec | None":
        """Find a module; ImportError if it is on a path from which no code may be taken."""
        far = self._far
        if far and name not in self._modules:
            self._modules |= self._same(marshal.loads(far))  # noqa: S302 - as above
            self._far = b""  # not before: another thread looks here, too
        module = self._modules.get(name)
        if module is None:
            return self._find_on_path(name, path, target)
        source, _, _, size, _ = module
        return self._spec(name) if size else self._find_extension(name, source)

    def _spec(self, name: str) -> "ModuleSpec":
        place = self._path(self._modules[name][0])
        spec = ModuleSpec(name, self, origin=place, is_package=place.endswith("/__init__.py"))  # type: ignore[arg-type]
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(place.rpartition("/")[0])
        return spec

    def create_module(self, spec: "ModuleSpec") -> None:
        """Leave it to importlib to make the module (importlib.abc.Loader)."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run a module's code in it; if it is the last of a group, load the others before."""
        name = module.__name__
        parts = self._groups.get(name)
        code = self._load_group(parts) if parts else None
        self._run(module, code or self._code(name))

    def _run(self, module: "ModuleType", code: "CodeType") -> None:
        module.__file__ = place = self._path(self._modules[module.__name__][0])
        # as importlib does for a package that was moved
        _imp._fix_co_filename(code, place)  # type: ignore[attr-defined] # noqa: SLF001
        exec(code, module.__dict__)  # noqa: S102 - this is what an import is

    def _load_group(self, parts: "list[Part]") -> "CodeType | None":
        """Load a group but its last, and return the code of that.

        importlib would take as long to find as to load them. If one of them was changed, or their code is not good,
        they are left to it. Modules are not garbage, and not looked at for it.
        """
        if not all(self._modules.keys() >= set(names) for names, *_ in parts):
            return None
        collects = gc.isenabled()
        gc.disable()
        begun: set[str] = set()
        code = None
        try:
            for part in parts:
                code = self._load_part(begun, *part)
                if code is None:
                    break
        finally:
            for name in begun:  # these have not ended loading: the next import begins anew
                del sys.modules[name]
            if collects:
                gc.freeze()
                gc.enable()
        return code

    def _load_part(
        self, begun: "set[str]", names: "tuple[str, ...]", start: int, size: int, checksum: bytes
    ) -> "CodeType | None":
        """Load a part's modules that are not loaded, and return the code of the last; None if the part is not good."""
        packed = self._packed(start, size, checksum)
        if packed is None:
            return None
        codes = marshal.loads(packed)  # noqa: S302 - as above
        del packed
        for name, code in zip(names, codes):  # noqa: B905 - as many
            if name not in sys.modules or name in begun:
                self._begin(name, begun)
                self._run(sys.modules[name], code)
                package, _, own = name.rpartition(".")
                if package:
                    setattr(sys.modules[package], own, sys.modules[name])
                begun.remove(name)
        return codes[-1]  # type: ignore[no-any-return]

    def _begin(self, name: str, begun: "set[str]") -> None:
        """Make a module as it is when it begins to load, and so the package that it is in."""
        if name in sys.modules:
            return
        spec = self._spec(name)
        spec._initializing = False  # type: ignore[attr-defined] # noqa: SLF001 - each import asks, and is slow without it
        module = sys.modules[name] = type(sys)(name)
        begun.add(name)
        module.__spec__, module.__package__ = spec, spec.parent
        module.__loader__ = self  # type: ignore[assignment]
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        if spec.parent and spec.parent != name:
            self._begin(spec.parent, begun)

    def _packed(self, start: int, size: int, checksum: bytes) -> "bytes | None":
        """Return a piece of the file if it is what it was."""
        packed = bytes(self._codes[start : start + size])  # an upgrade may write to the file meanwhile
        self._release()
        return packed if _imp.source_hash(KEY, packed) == checksum else None

    def _code(self, name: str) -> "CodeType":
        """Return a module's code; from the source if the code in the file is not what it was."""
        source, _, start, size, checksum = self._modules[name]
        packed = self._packed(start, size, checksum)
        if packed is None:
            place = self._path(source)
            return SourceLoader(name, place, self._trusted).get_code(name)  # type: ignore[return-value] # it has one
        code: CodeType = marshal.loads(packed)  # noqa: S302 - as above
        return code

    def _find_extension(self, name: str, source: str) -> "ModuleSpec | None":
        place = self._path(source)
        real = self._trusted(place)
        if self._changed({source: self._states[source]}):
            raise ImportError(f"{place} was replaced since C_Initialize: start the program again")
        return _extension_spec(name, ExtensionFileLoader(name, real))

    def _find_on_path(self, name: str, path: "Sequence[str] | None", target: object) -> "ModuleSpec | None":
        self._trusted(self._directory)
        spec = PathFinder.find_spec(name, path, target)  # type: ignore[arg-type]
        if spec is None or spec.loader is None or spec.origin is None:
            return None
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = SourceLoader(name, spec.origin, self._trusted)
        else:
            real = self._trusted(spec.origin)
            spec = _extension_spec(name, type(spec.loader)(name, real))  # type: ignore[call-arg, arg-type]
        return spec


def _extension_spec(name: str, loader: ExtensionFileLoader) -> ModuleSpec:
    spec = ModuleSpec(name, loader, origin=loader.path)
    spec.has_location = True
    return spec


def install(
    directory: str,
    bundle: "memoryview | None",
    trusted: "Callable[[str], str]",
    changed: "Callable[[States], set[str]]",
    release: "Callable[[], None]",
) -> None:
    """Have this interpreter find all that is neither built in nor frozen by a Finder."""
    finder = Finder(directory, bundle, trusted, changed, release)
    sys.meta_path[sys.meta_path.index(PathFinder)] = finder  # at once: another thread may be going through the list
