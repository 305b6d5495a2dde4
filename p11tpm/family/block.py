"""Block ciphers, AES and DES (clauses 2.8 to 2.17): encryption, codes, derivation and generation."""

from __future__ import annotations

from functools import partial

from p11tpm.crypto import block_mac, modes
from p11tpm.family.block_cipher import block_cipher
from p11tpm.family.family import Family
from p11tpm.family.length import first_bytes
from p11tpm.family.mac import Mac
from p11tpm.family.secret_key import generate
from p11tpm.given import refused
from p11tpm.host.imports import Late
from p11tpm.mechanism import CBC, CBC_MAC, ECB, ENCRYPT_ECB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.core.object import Object
    from p11tpm.core.token import Token
    from p11tpm.crypto import composed
    from p11tpm.crypto.cipher import Cipher
    from p11tpm.mechanism import Mechanism
else:
    composed = Late("p11tpm.crypto.composed")


class Block(Family):
    """AES, in the TPM and in memory, and DES."""

    generate = staticmethod(generate)

    def cipher(self, token: Token, key: Object, row: Mechanism, params: Any, *, encrypt: bool) -> Cipher:
        """Return what encrypts or decrypts in the mechanism's mode."""
        forms = {**modes.FORMS, **composed.FORMS} if key.in_tpm else modes.FORMS
        return forms[row.form](block_cipher(token, key), params, encrypt)

    def signer(self, token: Token, key: Object, row: Mechanism, params: Any) -> Mac:
        """Return what signs or verifies."""
        cipher = block_cipher(token, key)
        if row.form == CBC_MAC:
            return Mac(partial(block_mac.CbcMac, cipher), params, cipher.block, cipher.block // 2)
        return Mac(partial(block_mac.Cmac, cipher), params, cipher.block)

    verifier = signer

    def derive(self, token: Token, keys: list[Object], row: Mechanism, params: Any, length: int | None) -> bytes:
        """Encrypt the parameter's data; too few for the key are a bad parameter (clause 2.15)."""
        cipher, data = block_cipher(token, keys[0]), params.data
        if not data or len(data) % cipher.block or len(data) < (length or 0):
            raise refused("the data are not whole blocks, or too few for the key")
        mode, iv = (ECB, b"") if row.form == ENCRYPT_ECB else (CBC, params.iv)
        return first_bytes(cipher.context(mode, iv).update(data), length)


FAMILY = Block()
