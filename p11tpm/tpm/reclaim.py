"""What killed programs left in a TPM without a resource manager.

A key is flushed only if its public area, of which its Name is the hash, is one that the store has: it can be loaded
again whenever a living process misses it. The objects that know PINs are left alone, since a login that loses its own
in the middle would take what is loaded in its place for a wrong PIN.
"""

from __future__ import annotations

from p11tpm.error import TPM, TpmError
from p11tpm.tpm import command
from p11tpm.tpm.codec import Reader, u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from p11tpm.tpm.wire import Wire

_CAP_HANDLES = 1  # TPM_CAP: Part 2, clause 6.12
TRANSIENT, LOADED_SESSION = 0x80000000, 0x02000000  # first handles: Part 2, clauses 7.2 and 7.5
_MOST_HANDLES = 64  # a TPM has three to ten slots
_ABOUT_SESSIONS = frozenset({TPM.SESSION_MEMORY, TPM.MEMORY, TPM.SESSION_HANDLES})


def reclaim(wire: Wire, is_ours: Callable[[bytes], bool], code: int) -> bool:
    """Flush what nobody misses of what makes the TPM answer `code`; say whether there was any.

    `is_ours` tells whether a TPMT_PUBLIC is that of a key of the store. This process must have nothing in the TPM.
    Sessions look all alike: they are flushed only where no other program can be using them.
    """
    left = [handle for handle in handles(wire, TRANSIENT) if is_ours(_public(wire, handle))]
    if wire.connection.is_exclusive and code in _ABOUT_SESSIONS:
        left += handles(wire, LOADED_SESSION)
    for handle in left:
        wire.plain(command.FLUSH_CONTEXT, parameters=u32(handle))
    return bool(left)


def handles(wire: Wire, first: int) -> list[int]:
    """List the handles of one kind that are in the TPM (Part 3, clause 30.2)."""
    parameters = u32(_CAP_HANDLES) + u32(first) + u32(_MOST_HANDLES)
    reader = Reader(wire.plain(command.GET_CAPABILITY, parameters=parameters)[1])
    reader.take(5)
    return [reader.number(4) for _ in range(reader.number(4))]


def _public(wire: Wire, handle: int) -> bytes:
    """Read the TPMT_PUBLIC of an object; empty for a sequence, which has none, and for one that has just gone."""
    try:
        return Reader(wire.plain(command.READ_PUBLIC, u32(handle))[1]).buffer()
    except TpmError:
        return b""
