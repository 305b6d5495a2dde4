"""Where the interpreter that the module itself started finds its code: in one file instead of in a hundred.

build.py compiles this into the module and writes the file, `bundle.bin` in the package. That holds the byte code of
all modules that can be needed, with the time and size of each source of ours and of one file of each other directory,
which an upgrade changes like all others. A source that is not as it was then when the process starts is imported from
its path, and so is everything if the file is missing, damaged or for another Python.

From then on the file's modules are loaded from memory: neither chroot(2) nor an upgrade changes what they are. Nothing
comes from a path but what is not in the file, or is an extension module, and it has to pass csrc/origin.c.
"""

import _imp
import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import (
    MAGIC_NUMBER,
    ExtensionFileLoader,
    PathFinder,
    SourceFileLoader,
    spec_from_file_location,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType, ModuleType

    Index = tuple[dict[str, tuple[str, str, int, int, bytes]], dict[str, tuple[int, int]], tuple[str, ...]]

NAME = "bundle.bin"
FORMAT = 3
KEY = int.from_bytes(MAGIC_NUMBER[:2], "little") << 8 | FORMAT  # magic number: what changes with the byte code
HASH_SIZE = 8  # bytes, _imp.source_hash
HEAD_SIZE = HASH_SIZE + 4


def pack(
    modules: "dict[str, tuple[str, str, bytes]]", states: "dict[str, tuple[int, int]]", first: "Sequence[str]" = ()
) -> bytes:
    """Return the content of the file: hash and size (32 bits) of an index, the index, and the modules' marshalled code.

    Of each module, by name: the path of its source; the path of the file that tells whether that was changed, itself
    or another one of the same directory; the marshalled code, empty for an extension module. The index has, instead of
    this code, where it begins behind the index, its size, and its hash. Hashes are by a key that says which Python they
    are for. Paths begin at the package's directory unless they are absolute.
    `states`: the time of the last change (ns) and the size (bytes) of each file that tells. `first`: the modules that
    the last of them needs, in the order in which they end loading.
    """
    index, rest = {}, b""
    for name, (source, telling, code) in modules.items():
        index[name] = (source, telling, len(rest), len(code), _imp.source_hash(KEY, code))
        rest += code
    head = marshal.dumps((index, states, tuple(first)))
    return _imp.source_hash(KEY, head) + len(head).to_bytes(4, "little") + head + rest


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
        release: "Callable[[], None]",
    ) -> None:
        """Read the index; there is nothing in it if it is not good.

        `trusted` gives a path without links, or raises ImportError if no code may be taken from there.
        `release` gives back the memory of the file: Linux reads it again when it is needed.
        """
        self._release = release
        self._directory = directory
        self._trusted = trusted
        bundle = memoryview(b"") if bundle is None else bundle
        end = HEAD_SIZE + int.from_bytes(bundle[HASH_SIZE:HEAD_SIZE], "little")
        index = bundle[HEAD_SIZE:end]
        good = bundle[:HASH_SIZE] == _imp.source_hash(KEY, index)
        # nobody else may change the file
        content: Index = marshal.loads(index) if good else ({}, {}, ())  # noqa: S302
        known, self._states, self._first = content
        same = {path for path in self._states if self._is_as_it_was(path)}
        self._modules = {name: module for name, module in known.items() if module[1] in same}
        self._codes = bundle[end:]

    def _path(self, source: str) -> str:
        return source if source[0] == "/" else f"{self._directory}/{source}"

    def _is_as_it_was(self, path: str) -> bool:
        try:
            now = posix.stat(self._path(path))
        except OSError:
            return False
        time, size = self._states[path]
        same: bool = now.st_mtime_ns == time and now.st_size == size
        return same

    def find_spec(self, name: str, path: "Sequence[str] | None" = None, target: object = None) -> "ModuleSpec | None":
        """Find a module; ImportError if it is on a path from which no code may be taken."""
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
        """Run a module's code in it; if it is the last of the first modules, load the others before."""
        name, place = module.__name__, self._path(self._modules[module.__name__][0])
        if name in self._first[-1:]:
            self._load_first()
        module.__file__ = place
        exec(self._code(name, place), module.__dict__)  # noqa: S102 - this is what an import is

    def _load_first(self) -> None:
        """Load the first modules in their order, which importlib would take as long to find as they take to load.

        If one of them was changed, they are left to importlib.
        """
        if self._modules.keys() >= set(self._first):
            for name in [name for name in self._first if name not in sys.modules]:
                self.exec_module(self._begun(name))

    def _begun(self, name: str) -> "ModuleType":
        """Return a module as it is when it begins to load, and so does the package that it is in."""
        if name in sys.modules:
            return sys.modules[name]
        package, _, own = name.rpartition(".")
        spec = self._spec(name)
        module = sys.modules[name] = type(sys)(name)
        module.__spec__, module.__package__ = spec, spec.parent
        module.__loader__ = self  # type: ignore[assignment]
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        if package:
            setattr(self._begun(package), own, module)
        return module

    def _code(self, name: str, place: str) -> "CodeType":
        """Return a module's code; from the source if the code in the file is not what it was."""
        _, _, start, size, checksum = self._modules[name]
        packed = bytes(self._codes[start : start + size])  # an upgrade may write to the file meanwhile
        self._release()
        if _imp.source_hash(KEY, packed) != checksum:
            return SourceLoader(name, place, self._trusted).get_code(name)  # type: ignore[return-value] # it has one
        code: CodeType = marshal.loads(packed)  # noqa: S302 - as above
        # as importlib does for a package that was moved
        _imp._fix_co_filename(code, place)  # type: ignore[attr-defined] # noqa: SLF001
        return code

    def _find_extension(self, name: str, source: str) -> "ModuleSpec | None":
        place = self._path(source)
        real = self._trusted(place)
        if not self._is_as_it_was(source):
            raise ImportError(f"{place} was replaced since C_Initialize: start the program again")
        return spec_from_file_location(name, real, loader=ExtensionFileLoader(name, real))

    def _find_on_path(self, name: str, path: "Sequence[str] | None", target: object) -> "ModuleSpec | None":
        self._trusted(self._directory)
        spec = PathFinder.find_spec(name, path, target)  # type: ignore[arg-type]
        if spec is None or spec.loader is None or spec.origin is None:
            return None
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = SourceLoader(name, spec.origin, self._trusted)
        else:
            real = self._trusted(spec.origin)
            spec = spec_from_file_location(name, real, loader=type(spec.loader)(name, real))  # type: ignore[call-arg]
        return spec


def install(
    directory: str, bundle: "memoryview | None", trusted: "Callable[[str], str]", release: "Callable[[], None]"
) -> None:
    """Have this interpreter find all that is neither built in nor frozen by a Finder."""
    finder = Finder(directory, bundle, trusted, release)
    sys.meta_path[sys.meta_path.index(PathFinder)] = finder  # at once: another thread may be going through the list
