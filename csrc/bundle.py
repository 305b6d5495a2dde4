"""The file with the byte code of the package that finder.py reads."""

from __future__ import annotations

import contextlib
import marshal
import sys
import sysconfig
from pathlib import Path

import finder

# What goes into the bundle is what a host imports up to its first signature: the package but for this, ...
LATER = {
    *("cli", "der", "entry.uses", "keypair", "operation.copy", "privatekey", "residents", "uses"),
    *("tpm.importing", "tpm.password", "tpm.provision", "tpm.reclaim", "tpm.resident"),
}
# ... and this of the standard library, where it is neither frozen nor an extension.
STANDARD = ("__future__",)


def bundled(source: Path, root: Path) -> tuple[str, int, int, bytes]:
    """Give what the bundle says of a source, whose path begins at `root` if it is below it."""
    before = source.stat()  # if the source changes meanwhile, what is read is not taken for the new one
    # optimize: docstrings are left out, which nobody reads there; there is no assert in the package
    code = marshal.dumps(compile(source.read_bytes(), source, "exec", dont_inherit=True, optimize=2))
    path = source.relative_to(root) if source.is_relative_to(root) else source
    return str(path), before.st_mtime_ns, before.st_size, code


def write_bundle(package: Path, directory: Path) -> Path:
    """Write the file that finder.py reads."""
    sources = {}
    for source in package.rglob("*.py"):
        inner = source.relative_to(package).with_suffix("").parts
        if inner[0] not in LATER and ".".join(inner) not in LATER:
            sources[".".join(("p11tpm", *inner)).removesuffix(".__init__")] = source
    library = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix}))
    for name in STANDARD:  # from nowhere else, whatever this Python's own path is
        sources[name] = next(filter(Path.exists, (library / name / "__init__.py", library / f"{name}.py")))
    modules = {}
    for name, source in sorted(sources.items()):
        with contextlib.suppress(SyntaxError):  # whoever imports it is told
            modules[name] = bundled(source, package)
    bundle = directory / finder.NAME
    bundle.write_bytes(finder.pack(modules))
    return bundle
