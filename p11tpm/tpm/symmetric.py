"""Secret keys in the TPM at work: AES and HMAC. Neither data nor results are on the bus in clear."""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.tpm import command
from p11tpm.tpm.codec import HASH_IDS, Reader, sized, u16, u32
from p11tpm.tpm.tpm import DisplacedError, repeated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.tpm.codec import Key
    from p11tpm.tpm.tpm import Tpm

MOST = 1024  # bytes that every TPM takes in one command (TPM_PT_INPUT_BUFFER)
MODES = {"ecb": 0x0044, "cbc": 0x0042, "ctr": 0x0040, "cfb128": 0x0043}  # TPM_ALG_ID: Part 2, clause 6.3
_NULL = u32(0x40000007)  # TPM_RH_NULL


def crypt(tpm: Tpm, key: Key, mode: str, iv: bytes, data: bytes, *, encrypt: bool) -> bytes:
    """Encrypt or decrypt up to `MOST` bytes by AES, whole blocks in ECB and CBC (Part 3, clause 15.3)."""
    parameters = sized(data) + bytes((not encrypt,)) + u16(MODES[mode]) + sized(iv)
    result = Reader(tpm.use(command.ENCRYPT_DECRYPT_2, key, parameters)).buffer()
    if len(result) != len(data):
        raise Error(CKR.DEVICE_ERROR, "what the TPM encrypts or decrypts does not keep its length")
    return result


def mac(tpm: Tpm, key: Key, digest: str, message: bytes) -> bytes:
    """Return the HMAC of a message: one command for `MOST` bytes (Part 3, clause 15.4), a sequence for more.

    Other threads have the TPM between the parts. DisplacedError if what they did cost it the sequence.
    """
    if len(message) <= MOST:
        return Reader(tpm.use(command.HMAC, key, sized(message) + HASH_IDS[digest])).buffer()
    with tpm.sequences:
        return _in_parts(tpm, key, digest, message)


@repeated
def _in_parts(tpm: Tpm, key: Key, digest: str, message: bytes) -> bytes:
    """Send a message to the TPM in parts (Part 3, clause 17); it keeps the sequence beside the key meanwhile."""
    session = tpm.loaded.session()
    loaded = tpm.loaded.key(key)
    start = sized(key.auth) + HASH_IDS[digest]  # the sequence gets the authorisation value of the key
    sequence, _ = tpm.wire.authorised(command.HMAC_START, session, (loaded,), key.auth, start)
    handle = sequence, b""  # a sequence has no Name: Part 1, clause 16
    last = (len(message) - 1) // MOST * MOST
    try:
        for at in range(0, last, MOST):
            part = sized(message[at : at + MOST])
            tpm.wire.authorised(command.SEQUENCE_UPDATE, tpm.loaded.session(), (handle,), key.auth, part)
            tpm.give_way()
        end = sized(message[last:]) + _NULL
        _, answer = tpm.wire.authorised(command.SEQUENCE_COMPLETE, tpm.loaded.session(), (handle,), key.auth, end)
    except DisplacedError:
        raise
    except BaseException:
        tpm.let_go(sequence)
        raise
    return Reader(answer).buffer()
