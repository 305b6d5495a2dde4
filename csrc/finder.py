"""Where the interpreter that the module itself started finds its code: in one file instead of in fifty.

build.py compiles this into the module and writes the file, `bundle.bin` in the package. That holds the byte code of
modules, with the time and size of each source. A source that is not as it was then is imported as ever, and so is
everything if the file is missing, damaged or for another Python.
"""

import _imp
import marshal
import posix
import sys
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader, spec_from_file_location

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType

NAME = "bundle.bin"
FORMAT = 1
KEY = int.from_bytes(MAGIC_NUMBER[:2], "little") << 8 | FORMAT  # magic number: what changes with the byte code
HASH_SIZE = 8  # bytes, _imp.source_hash
HEAD_SIZE = HASH_SIZE + 4


def pack(modules: "dict[str, tuple[str, int, int, bytes]]") -> bytes:
    """Give the content of the file: hash and size (32 bits) of an index, the index, and the modules' marshalled code.

    Of each module, by name: the path of its source, from the package's directory on unless it is absolute; the time of
    the source's last change (ns) and its size (bytes); the marshalled code. The index has, instead of this code, where
    it begins behind the index, its size, and its hash. Hashes are by a key that says which Python they are for.
    """
    index, rest = {}, b""
    for name, (source, time, size, code) in modules.items():
        index[name] = (source, time, size, len(rest), len(code), _imp.source_hash(KEY, code))
        rest += code
    first = marshal.dumps(index)
    return _imp.source_hash(KEY, first) + len(first).to_bytes(4, "little") + first + rest


def read(path: str) -> memoryview:
    """Read a file at once: that costs less than to open it for each module, and no descriptor is left in the host."""
    file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return memoryview(posix.read(file, posix.fstat(file).st_size))
    finally:
        posix.close(file)


class Loader(SourceFileLoader):
    """Loads a module; from the source if the code in the file is not what it was."""

    def __init__(self, name: str, source: str, packed: memoryview, checksum: bytes) -> None:
        super().__init__(name, source)
        self._packed = packed
        self._checksum = checksum

    def get_code(self, fullname: str) -> "CodeType | None":
        """Give the module's code."""
        if _imp.source_hash(KEY, self._packed) != self._checksum:
            return super().get_code(fullname)
        code: CodeType = marshal.loads(self._packed)  # noqa: S302 - it lies beside the other byte code, and is as safe
        # as importlib does for a package that was moved
        _imp._fix_co_filename(code, self.path)  # type: ignore[attr-defined] # noqa: SLF001
        return code


class Finder:
    """Finds what is in the file while the source is as it was."""

    def __init__(self, directory: str) -> None:
        """Read the index; there is nothing in it if it is not good. OSError if there is no file."""
        self._directory = directory
        bundle = read(f"{directory}/{NAME}")
        end = HEAD_SIZE + int.from_bytes(bundle[HASH_SIZE:HEAD_SIZE], "little")
        index = bundle[HEAD_SIZE:end]
        good = bundle[:HASH_SIZE] == _imp.source_hash(KEY, index)
        self._index = marshal.loads(index) if good else {}  # noqa: S302 - as above
        self._codes = bundle[end:]

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":  # noqa: ARG002
        """Find a module, or leave it to the other finders."""
        if name not in self._index:
            return None
        source, time, size, start, length, checksum = self._index[name]
        if source[0] != "/":
            source = f"{self._directory}/{source}"
        try:
            now = posix.stat(source)
        except OSError:
            return None
        if (now.st_mtime_ns, now.st_size) != (time, size):
            return None
        loader = Loader(name, source, self._codes[start : start + length], checksum)
        directory, _, file = source.rpartition("/")
        inner = [directory] if file == "__init__.py" else None
        return spec_from_file_location(name, source, loader=loader, submodule_search_locations=inner)


def install(directory: str) -> None:
    """Let this interpreter use the file in the package's directory; OSError if there is none."""
    sys.meta_path.insert(0, Finder(directory))
