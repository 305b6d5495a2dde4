"""Where the interpreter that the module itself started finds its code: in one file instead of in a hundred.

build.py compiles this into the module and writes the file, `bundle.bin` in the package. That holds the byte code of
all modules that can be needed, with the time and size of each source. A source that is not as it was then when the
process starts is imported from its path, and so is everything if the file is missing, damaged or for another Python.

From then on the file's modules are loaded from memory: neither chroot(2) nor an upgrade changes what they are. Nothing
comes from a path but what is not in the file, or is an extension module, and it has to pass csrc/origin.c.
"""

import _imp
import marshal
import posix
import sys
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
    from importlib.machinery import ModuleSpec
    from types import CodeType

NAME = "bundle.bin"
FORMAT = 2
KEY = int.from_bytes(MAGIC_NUMBER[:2], "little") << 8 | FORMAT  # magic number: what changes with the byte code
HASH_SIZE = 8  # bytes, _imp.source_hash
HEAD_SIZE = HASH_SIZE + 4


def pack(modules: "dict[str, tuple[str, int, int, bytes]]") -> bytes:
    """Return the content of the file: hash and size (32 bits) of an index, the index, and the modules' marshalled code.

    Of each module, by name: the path of its source, from the package's directory on unless it is absolute; the time of
    the source's last change (ns) and its size (bytes); the marshalled code, empty for an extension module. The index
    has, instead of this code, where it begins behind the index, its size, and its hash. Hashes are by a key that says
    which Python they are for.
    """
    index, rest = {}, b""
    for name, (source, time, size, code) in modules.items():
        index[name] = (source, time, size, len(rest), len(code), _imp.source_hash(KEY, code))
        rest += code
    first = marshal.dumps(index)
    return _imp.source_hash(KEY, first) + len(first).to_bytes(4, "little") + first + rest


class SourceLoader(SourceFileLoader):
    """Loads a module from its source, or from the byte code beside that."""

    def __init__(self, name: str, source: str, trusted: "Callable[[str], str]") -> None:
        super().__init__(name, source)
        self._trusted = trusted

    def get_data(self, path: str) -> bytes:
        """Read a file; ImportError if somebody else may change it."""
        return super().get_data(self._trusted(path))


class Loader(SourceLoader):
    """Loads a module; from the source if the code in the file is not what it was."""

    def __init__(
        self, name: str, source: str, trusted: "Callable[[str], str]", packed: memoryview, checksum: bytes
    ) -> None:
        super().__init__(name, source, trusted)
        self._packed = packed
        self._checksum = checksum

    def get_code(self, fullname: str) -> "CodeType | None":
        """Return the module's code."""
        packed = bytes(self._packed)
        if _imp.source_hash(KEY, packed) != self._checksum:
            return super().get_code(fullname)
        code: CodeType = marshal.loads(packed)  # noqa: S302 - nobody else may change the file
        # as importlib does for a package that was moved
        _imp._fix_co_filename(code, self.path)  # type: ignore[attr-defined] # noqa: SLF001
        return code


class Finder:
    """Finds what is in the file and was not changed before the start, and on paths what may be trusted."""

    def __init__(self, directory: str, bundle: "memoryview | None", trusted: "Callable[[str], str]") -> None:
        """Read the index; there is nothing in it if it is not good.

        `trusted` gives a path without links, or raises ImportError if no code may be taken from there.
        """
        self._directory = directory
        self._trusted = trusted
        bundle = memoryview(b"") if bundle is None else bundle
        end = HEAD_SIZE + int.from_bytes(bundle[HASH_SIZE:HEAD_SIZE], "little")
        index = bundle[HEAD_SIZE:end]
        good = bundle[:HASH_SIZE] == _imp.source_hash(KEY, index)
        known = marshal.loads(index) if good else {}  # noqa: S302 - as above
        self._index = {name: entry for name, entry in known.items() if self._is_as_it_was(*entry[:3])}
        self._codes = bundle[end:]

    def _path(self, source: str) -> str:
        return source if source[0] == "/" else f"{self._directory}/{source}"

    def _is_as_it_was(self, source: str, time: int, size: int) -> bool:
        try:
            now = posix.stat(self._path(source))
        except OSError:
            return False
        return now.st_mtime_ns == time and now.st_size == size

    def find_spec(self, name: str, path: "Sequence[str] | None" = None, target: object = None) -> "ModuleSpec | None":
        """Find a module; ImportError if it is on a path from which no code may be taken."""
        if name not in self._index:
            return self._find_on_path(name, path, target)
        source, time, size, start, length, checksum = self._index[name]
        place = self._path(source)
        if not length:
            return self._find_extension(name, place, self._is_as_it_was(place, time, size))
        loader = Loader(name, place, self._trusted, self._codes[start : start + length], checksum)
        directory, _, file = place.rpartition("/")
        inner = [directory] if file == "__init__.py" else None
        return spec_from_file_location(name, place, loader=loader, submodule_search_locations=inner)

    def _find_extension(self, name: str, place: str, same: bool) -> "ModuleSpec | None":
        real = self._trusted(place)
        if not same:
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


def install(directory: str, bundle: "memoryview | None", trusted: "Callable[[str], str]") -> None:
    """Have this interpreter find all that is neither built in nor frozen by a Finder."""
    finder = Finder(directory, bundle, trusted)
    sys.meta_path[sys.meta_path.index(PathFinder)] = finder  # at once: another thread may be going through the list
