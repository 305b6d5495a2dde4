"""Where a key lives: in the TPM if that does all that the key is for, else in software.

In the TPM are all RSA and EC private keys, except session keys that are extractable; and those secret keys of the token
that never leave it: AES keys, of which the TPM does the blocks in whatever mechanism, and keys for the HMACs of hashes
that the TPM has. The place is settled when a key is made. A copy of a key in the TPM is in the TPM, too.
"""

from __future__ import annotations

from p11tpm.algorithm import HASHES
from p11tpm.attribute import FALSE, TRUE, to_ulong
from p11tpm.ck import CKA, CKK
from p11tpm.core.key_material import KeyMaterial
from p11tpm.core.object import Object
from p11tpm.crypto.check_value import check_value
from p11tpm.mechanism import ECB, HMAC, HMAC_KEYS, MECHANISMS
from p11tpm.parameter import AES_BLOCK
from p11tpm.tpm import template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.core.token import Token

_STAYS = {CKA.TOKEN: TRUE, CKA.EXTRACTABLE: FALSE, CKA.DERIVE: FALSE}


def tpm_template_for(token: Token, attributes: Template, length: int, *, made: bool) -> bytes | None:
    """Return the TPM's template for a key of `length` bytes; None: it lives in software, or the TPM cannot make it."""
    if any(attributes.get(type_) != value for type_, value in _STAYS.items()):
        return None
    key_type, capabilities = to_ulong(attributes[CKA.KEY_TYPE]), token.capabilities
    if key_type == CKK.AES:
        return template.aes(8 * length, made=made) if f"aes{8 * length}" in capabilities else None
    if made or "hmac" not in capabilities:
        return None
    # A TPM's HMAC key is at most a block of its hash, of SHA-256 if the key is for any (Part 1, clause 27.6.3)
    if key_type == CKK.GENERIC_SECRET:
        fits = length <= HASHES["sha256"].block and _only_hmac(
            attributes.get(CKA.ALLOWED_MECHANISMS, b""), capabilities
        )
        return template.hmac(None) if fits else None
    digest = next((digest for digest, one in HMAC_KEYS.items() if one == key_type), "")
    return template.hmac(digest) if digest in capabilities and length <= HASHES[digest].block else None


def _only_hmac(allowed: bytes, capabilities: tuple[str, ...]) -> bool:
    """Return whether CKA_ALLOWED_MECHANISMS has nothing but HMACs that the TPM does; without it a key is for all."""
    rows = [MECHANISMS.get(to_ulong(allowed[at : at + 8])) for at in range(0, len(allowed), 8)]
    return bool(rows) and all(row is not None and row.form == HMAC and row.digest in capabilities for row in rows)


def in_software(attributes: Template) -> bool:
    """Return whether an RSA or EC private key with these attributes lives in software: it may leave, and soon ends."""
    return attributes.get(CKA.TOKEN) != TRUE and attributes.get(CKA.EXTRACTABLE) == TRUE


def made_by_tpm(token: Token, attributes: Template, length: int) -> bool:
    """Return whether the TPM makes a new key itself, so that its value is nowhere else."""
    return tpm_template_for(token, attributes, length, made=True) is not None


def place(token: Token, attributes: Template, value: bytes | None, length: int) -> KeyMaterial:
    """Place a secret key of `length` bytes with these attributes: in the TPM if it is to live there, or in software.

    `value` is None for a key that the TPM makes. In the place of the secret of a key in the TPM is its check value.
    """
    public = tpm_template_for(token, attributes, length, made=value is None)
    if public is None:
        return KeyMaterial(value)
    made = token.tpm.create(public, value or b"")
    if value is not None:
        made.secret = check_value(to_ulong(attributes[CKA.KEY_TYPE]), value)
    else:
        key = Object(made.record(token.id, attributes))
        made.secret = token.tpm.aes(key, ECB, b"", bytes(AES_BLOCK), encrypt=True)[:3]
    return made
