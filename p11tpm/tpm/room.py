"""Whether a TPM has room for what a login and a key need, how much is in it, and what its resource manager costs."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from p11tpm.error import FLUSHED_BY, TPM, Error, TpmError
from p11tpm.tpm import command
from p11tpm.tpm.codec import sized, u16
from p11tpm.tpm.connection import NotKeptError
from p11tpm.tpm.hmac_session import Opening
from p11tpm.tpm.reclaim import LOADED_SESSION, TRANSIENT, handles
from p11tpm.tpm.tpm import repeated

if TYPE_CHECKING:
    from p11tpm.tpm.tpm import Tpm
    from p11tpm.tpm.wire import Wire

_SAVED_SESSION = 0x03000000  # first handle: Part 2, clause 7.2
_SHA256 = u16(0x000B)
_LOOKS = 3


class Room:
    """The room that a TPM has for a session and a key, and how much others have in it.

    `objects` are those that the way to the TPM shows: a resource manager hides those of other programs. `loaded` and
    `saved` are everybody's sessions. `flush` is how tpm2_flushcontext makes room, empty if there is some, and `managed`
    says whether there is a resource manager. `swap` is how long that takes to swap one object in and out, in seconds.
    """

    __slots__ = ("flush", "loaded", "managed", "objects", "saved", "swap")

    def __init__(self, tpm: Tpm) -> None:
        """Ask a TPM and try it out, and leave nothing in it; Error if it does not answer."""
        try:
            self.objects, self.loaded, self.saved = _counts(tpm)
            self.managed = tpm.connection.has_manager
            self.flush, self.swap = "", 0.0
            try:
                self.swap = _try_out(tpm)
            except Error as error:
                self.flush = _flushes(error)
                if not self.flush:
                    raise
        finally:
            tpm.release()


def _flushes(error: Error) -> str:
    """Return how tpm2_flushcontext makes room after an error, empty if that was not for want of room."""
    if isinstance(error, NotKeptError):
        return FLUSHED_BY[TPM.CONTEXT_GAP]
    return FLUSHED_BY.get(error.code, "") if isinstance(error, TpmError) else ""


@repeated
def _counts(tpm: Tpm) -> list[int]:
    """Return how many objects, loaded and saved sessions there are."""
    return [len(handles(tpm.wire, first)) for first in (TRANSIENT, LOADED_SESSION, _SAVED_SESSION)]


@repeated
def _try_out(tpm: Tpm) -> float:
    """Start a session, and a sequence, which takes the place of a key; return the seconds that the latter adds."""
    wire, opening = tpm.wire, Opening()
    wire.plain(command.START_AUTH_SESSION, opening.handles(), opening.parameters())
    without = _seconds(wire)
    wire.plain(command.HASH_SEQUENCE_START, parameters=sized(b"") + _SHA256)
    return max(0.0, _seconds(wire) - without)


def _seconds(wire: Wire) -> float:
    """Return how long a small command takes, with all that is swapped in and out around it."""
    times = []
    for _ in range(_LOOKS):
        began = monotonic()
        handles(wire, LOADED_SESSION)
        times.append(monotonic() - began)
    return min(times)
