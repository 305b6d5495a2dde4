"""Programs of other users, who may not look into the directories of the developer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rig.rights import require_mounts

CHECKOUT = Path(__file__).resolve().parents[2]
# $1: a directory that others may not enter; the rest up to --: what they need that is in there
SHOW = """hidden="$1"; shift
kept=$(mktemp -d); number=0
for place; do
    [ "$place" != -- ] || break
    number=$((number + 1)); mkdir "$kept/$number"; mount --bind "$place" "$kept/$number"
done
mount -t tmpfs -o mode=755 none "$hidden"
number=0
while [ "$1" != -- ]; do
    number=$((number + 1)); mkdir -p "$1"; mount --bind "$kept/$number" "$1"
    umount "$kept/$number"; rmdir "$kept/$number"; shift
done
rmdir "$kept"; shift
exec "$@"
"""


def hidden_by(place: Path) -> Path | None:
    """The first directory on the way to `place` that others may not enter."""
    return next((above for above in reversed(place.parents) if not above.stat().st_mode & 0o001), None)


def readable() -> list[str | Path]:
    """The beginning of root's command whose children may be other users: they see this Python and this checkout."""
    command: list[str | Path] = []
    needed: dict[Path, list[Path]] = {}
    for place in {Path(sys.base_prefix).resolve(), CHECKOUT}:
        if hidden := hidden_by(place):
            needed.setdefault(hidden, []).append(place)
    for hidden, places in needed.items():
        command += ["/bin/sh", "-euc", SHOW, "sh", hidden, *places, "--"]
    if not command or os.geteuid() != 0:
        return []
    require_mounts()
    return ["/usr/bin/unshare", "--mount", *command]
