"""Keys from outside, wrapped here so that nobody but the TPM with the right storage root key can read them.

TPM 2.0 Part 1, clause 23.3 (duplication): the outer wrapper alone, whose seed only that storage root key can decrypt.
It protects a key on any bus and in any session. Part 3, clause 13.3: TPM2_Import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from p11tpm.ck import CKR
from p11tpm.crypto import hashes
from p11tpm.error import TPM, Error, TpmError
from p11tpm.tpm import command, template
from p11tpm.tpm.codec import HASHES, Blob, Reader, name_of, sized, u16
from p11tpm.tpm.kdf import kdfa
from p11tpm.tpm.salt import make_salt
from p11tpm.tpm.tpm import repeated

try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:  # its place before version 49
    from cryptography.hazmat.primitives.ciphers.modes import CFB

if TYPE_CHECKING:
    from p11tpm.tpm.tpm import Tpm

_NULL = u16(0x0010)
_AES, _CFB = u16(0x0006), u16(0x0043)  # TPM_ALG_ID: Part 2, clause 6.3


def import_key(tpm: Tpm, public: bytes, auth: bytes, number: bytes) -> Blob:
    """Import a key with this TPMT_PUBLIC and authorisation value under the SRK, by one command.

    `number` is its secret: a prime factor of RSA, as long as half the modulus, or an EC key's scalar, as long as the
    curve's field. CKR_ATTRIBUTE_VALUE_INVALID for a key that the TPM does not take.
    """
    # The TPM strips zero bytes from the end of an authorisation value: Part 1, clause 17.6.5
    sensitive = sized(public[:2] + sized(auth.rstrip(b"\0")) + sized(b"") + sized(number))
    try:
        return _import(tpm, public, sensitive)
    except TpmError as error:
        raise _meant(error) from None


@repeated
def _import(tpm: Tpm, public: bytes, sensitive: bytes) -> Blob:
    duplicate, seed = wrap(tpm.loaded.root.public, name_of(public), sensitive)
    parameters = sized(b"") + sized(public) + sized(duplicate) + sized(seed) + _NULL  # no inner wrapper
    parent = tpm.loaded.parent()
    _, answer = tpm.wire.authorised(command.IMPORT, tpm.loaded.session(), (parent,), b"", parameters)
    return Blob(public, Reader(answer).buffer())


def wrap(srk_public: bytes, name: bytes, sensitive: bytes) -> tuple[bytes, bytes]:
    """Encrypt a TPM2B_SENSITIVE for the key with this TPMT_PUBLIC, and the seed of that.

    `name` is the object's (Part 1, clause 23.3.2.4).
    """
    digest = HASHES[int.from_bytes(srk_public[2:4], "big")]
    algorithm, bits, mode = template.symmetric(srk_public)
    if (algorithm, mode) != (_AES, _CFB):
        raise Error(CKR.DEVICE_ERROR, "the storage root key does not use AES in CFB mode, which an import needs")
    seed, encrypted_seed = make_salt(srk_public, b"DUPLICATE")
    key = kdfa(digest, seed, b"STORAGE", name, b"", bits)
    encryptor = Cipher(AES(key), CFB(bytes(16))).encryptor()
    hidden = encryptor.update(sensitive) + encryptor.finalize()
    integrity = hashes.mac(digest, kdfa(digest, seed, b"INTEGRITY", b"", b"", 8 * len(seed)), hidden + name)
    return sized(integrity) + hidden, encrypted_seed


def _meant(error: TpmError) -> Error:
    """Return what a refusal means: the second parameter is the public area, the third the key (Part 2, 6.6.3)."""
    if error.code & 0xFC0 in {0x2C0, 0x3C0} and error.code & 0x3F != TPM.INTEGRITY & 0x3F:
        return Error(CKR.ATTRIBUTE_VALUE_INVALID, f"the TPM does not take such a key, it answered {error.code:#05x}")
    return error
