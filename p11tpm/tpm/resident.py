"""Keys that stay in the TPM: persistent objects, which need no Load and which no resource manager saves and reloads.

They take the TPM's scarce non-volatile memory, so the TPM's owner has to agree: an authorisation value of the owner
hierarchy, empty on most machines.
"""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.crypto import hashes
from p11tpm.error import TPM, Error, TpmError
from p11tpm.tpm import command
from p11tpm.tpm.codec import HASHES, Reader, name_of, u32
from p11tpm.tpm.loaded import OWNER
from p11tpm.tpm.tpm import repeated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from p11tpm.tpm.codec import Blob, Srk
    from p11tpm.tpm.tpm import Tpm

# The owner's persistent handles end below 0x81800000; the first 64 Ki of them are for storage root keys, the next for
# endorsement keys (TCG Registry of Reserved TPM 2.0 Handles, clause 2.3).
HANDLES = range(0x81020000, 0x81030000)

_CAP_HANDLES = 1  # TPM_CAP: Part 2, clause 6.12
_MOST_HANDLES = 64  # asked for at a time
_TRIES = 3  # of finding a handle that nobody else takes meanwhile


def keep(tpm: Tpm, blob: Blob, owner_auth: bytes, note: Callable[[int], None]) -> int:
    """Leave a key in the TPM and give its handle; that of the key itself if it is there already.

    `note` is told of a handle before the TPM is asked to leave the key there, and of 0 if it refuses.
    CKR_DEVICE_MEMORY if the TPM is full, CKR_ACTION_PROHIBITED if `owner_auth` is not the owner's.
    """
    try:
        return _keep(tpm, blob, owner_auth, note)
    except TpmError as error:
        raise _meant(error, owner_auth) from None


@repeated
def _keep(tpm: Tpm, blob: Blob, owner_auth: bytes, note: Callable[[int], None]) -> int:
    tries = _TRIES
    while True:
        used = _used(tpm)
        found = _find(tpm, name_of(blob.public), used)
        if found:
            return found
        free = next(handle for handle in HANDLES if handle not in used)
        tries -= 1
        note(free)
        try:
            _persist(tpm, blob, owner_auth, free)
        except TpmError as error:
            note(0)
            if error.code != TPM.NV_DEFINED or not tries:
                raise
        else:
            return free


def _persist(tpm: Tpm, blob: Blob, owner_auth: bytes, handle: int) -> None:
    tpm.loaded.make_room(0)
    loaded = tpm.loaded.load(blob, salted=True)
    try:
        _evict_control(tpm, loaded, owner_auth, handle)
    finally:
        tpm.let_go(loaded[0])


def evict(tpm: Tpm, public: bytes, owner_auth: bytes) -> bool:
    """Evict the key with this TPMT_PUBLIC from the TPM; False if it was not there.

    CKR_ACTION_PROHIBITED if `owner_auth` is not the owner's.
    """
    try:
        return _evict(tpm, public, owner_auth)
    except TpmError as error:
        raise _meant(error, owner_auth) from None


@repeated
def _evict(tpm: Tpm, public: bytes, owner_auth: bytes) -> bool:
    name, used, found = name_of(public), _used(tpm), False
    while handle := _find(tpm, name, used):
        _evict_control(tpm, (handle, name), owner_auth, handle)
        used = {other for other in used if other > handle}
        found = True
    return found


@repeated
def is_at(tpm: Tpm, public: bytes, handle: int) -> bool:
    """Return whether the TPM has the key with this TPMT_PUBLIC at a handle."""
    return _find(tpm, name_of(public), {handle} & _used(tpm)) == handle


@repeated
def below(tpm: Tpm, srks: list[Srk]) -> dict[int, bytes]:
    """Return the TPMT_PUBLIC of each key at one of `HANDLES` that is below one of these storage root keys."""
    parents = [_qualified(u32(OWNER), srk.name) for srk in srks]
    found = {}
    for handle in sorted(_used(tpm)):
        public, name, qualified = _read(tpm, handle)
        if qualified in {_qualified(parent, name) for parent in parents}:
            found[handle] = public
    return found


def _qualified(parent: bytes, name: bytes) -> bytes:
    """Return the Qualified Name of an object below one with the Qualified Name `parent` (Part 1, clause 16).

    It is empty if the object's hash is one that no key of a token has.
    """
    digest = HASHES.get(int.from_bytes(name[:2], "big"))
    return name[:2] + hashes.digest(digest, parent + name) if digest else b""


def _evict_control(tpm: Tpm, thing: tuple[int, bytes], owner_auth: bytes, handle: int) -> None:
    """Make a loaded object persistent, or end that of a persistent one (Part 3, clause 28.5)."""
    owner = (OWNER, u32(OWNER))  # the Name of a hierarchy is its handle
    # With a salt: an owner's authorisation value may be a word that can be guessed
    tpm.wire.authorised(command.EVICT_CONTROL, tpm.loaded.session(), (owner, thing), owner_auth, u32(handle))


def _used(tpm: Tpm) -> set[int]:
    """Return those of `HANDLES` that have an object, whoever put it there."""
    found: set[int] = set()
    start, more = HANDLES.start, True
    while more and start in HANDLES:
        parameters = u32(_CAP_HANDLES) + u32(start) + u32(_MOST_HANDLES)
        reader = Reader(tpm.wire.plain(command.GET_CAPABILITY, parameters=parameters)[1])
        more = bool(reader.number(1))
        reader.take(4)
        handles = [reader.number(4) for _ in range(reader.number(4))]
        found.update(handles)
        more = more and bool(handles)
        start = max(handles, default=start) + 1
    return found & set(HANDLES)


def _find(tpm: Tpm, name: bytes, handles: set[int]) -> int:
    """Return the handle of the object with a Name; 0 if none of `handles` has it."""
    return next((handle for handle in sorted(handles) if _read(tpm, handle)[1] == name), 0)


def _read(tpm: Tpm, handle: int) -> tuple[bytes, bytes, bytes]:
    """Return the TPMT_PUBLIC of an object, its Name and its Qualified Name (Part 3, clause 12.4)."""
    reader = Reader(tpm.wire.plain(command.READ_PUBLIC, u32(handle))[1])
    return reader.buffer(), reader.buffer(), reader.buffer()


def _meant(error: TpmError, owner_auth: bytes) -> Error:
    """Return what a refusal means for the person who asked."""
    if error.code == TPM.NV_SPACE:
        why = "the TPM has no room for another resident key: let one go (p11tpm key resident KEY --undo)"
        return Error(CKR.DEVICE_MEMORY, why)
    if error.code not in {TPM.BAD_AUTH, TPM.AUTH_FAIL}:
        return error
    if owner_auth:
        return Error(CKR.ACTION_PROHIBITED, "this is not the authorisation value of the TPM's owner")
    return Error(
        CKR.ACTION_PROHIBITED,
        "the TPM's owner has an authorisation value, without which no key becomes resident or ceases to be: "
        "p11tpm key resident KEY [--undo] --owner-auth-file FILE",
    )
