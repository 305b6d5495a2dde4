"""The TPM's other user: ESAPI of tpm2-pytss, which derives, encrypts and verifies everything in its own way."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import tpm2_pytss as tss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p11tpm.tpm import Blob
    from rig import Swtpm

NONE, PASSWORD = tss.ESYS_TR.NONE, tss.ESYS_TR.PASSWORD
NO_SYMMETRIC = tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL)
CFB = tss.TPMT_SYM_DEF(
    algorithm=tss.TPM2_ALG.AES,
    keyBits=tss.TPMU_SYM_KEY_BITS(aes=128),
    mode=tss.TPMU_SYM_MODE(aes=tss.TPM2_ALG.CFB),
)
TICKET = tss.TPMT_TK_HASHCHECK(tag=tss.TPM2_ST.HASHCHECK, hierarchy=tss.TPM2_RH.NULL)
ATTRIBUTES = tss.TPMA_SESSION.CONTINUESESSION | tss.TPMA_SESSION.DECRYPT | tss.TPMA_SESSION.ENCRYPT


def public_of(public: bytes) -> tss.TPM2B_PUBLIC:
    return tss.TPM2B_PUBLIC(tss.TPMT_PUBLIC.unmarshal(public)[0])


class Referee:
    """ESAPI on the same TPM, below the same storage root key."""

    def __init__(self, swtpm: Swtpm, srk_handle: int) -> None:
        self.esapi = tss.ESAPI(swtpm.tcti)
        self.srk = self.esapi.tr_from_tpmpublic(srk_handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.esapi.close()

    @contextmanager
    def session(self, hash_: int = tss.TPM2_ALG.SHA256) -> Iterator[tss.ESYS_TR]:
        """A salted session that encrypts with AES, where ours uses XOR."""
        kind = tss.TPM2_SE.HMAC
        session = self.esapi.start_auth_session(self.srk, NONE, kind, CFB, hash_)
        try:
            self.esapi.trsess_set_attributes(session, ATTRIBUTES)
            yield session
        finally:
            self.esapi.flush_context(session)

    @contextmanager
    def loaded(self, blob: Blob, auth: bytes = b"") -> Iterator[tss.ESYS_TR]:
        handle = self.esapi.load(self.srk, tss.TPM2B_PRIVATE(blob.private), public_of(blob.public))
        try:
            self.esapi.tr_set_auth(handle, auth)
            yield handle
        finally:
            self.esapi.flush_context(handle)

    def unseal(self, blob: Blob, auth: bytes) -> bytes:
        with self.session() as session, self.loaded(blob, auth) as handle:
            return bytes(self.esapi.unseal(handle, session1=session))

    def sign(self, blob: Blob, auth: bytes, digest: bytes, hash_: int) -> tuple[int, int]:
        scheme = tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.ECDSA)
        scheme.details.any.hashAlg = hash_
        with self.loaded(blob, auth) as handle:
            whole = self.esapi.sign(handle, digest, scheme, TICKET)  # its parts do not keep it alive
        pair = whole.signature.ecdsa
        return int.from_bytes(bytes(pair.signatureR), "big"), int.from_bytes(bytes(pair.signatureS), "big")

    def accepts(self, public: bytes, digest: bytes, hash_: int, pair: tuple[int, int]) -> None:
        """Have the TPM verify a signature; TSS2_Exception if it does not like it."""
        signature = tss.TPMT_SIGNATURE(sigAlg=tss.TPM2_ALG.ECDSA)
        signature.signature.ecdsa.hash = hash_
        signature.signature.ecdsa.signatureR, signature.signature.ecdsa.signatureS = (
            number.to_bytes((number.bit_length() + 7) // 8, "big") for number in pair
        )
        handle = self.esapi.load_external(public_of(public))
        try:
            self.esapi.verify_signature(handle, digest, signature)
        finally:
            self.esapi.flush_context(handle)

    def rsa(self, blob: Blob, auth: bytes, block: bytes) -> bytes:
        scheme = tss.TPMT_RSA_DECRYPT(scheme=tss.TPM2_ALG.NULL)
        with self.loaded(blob, auth) as handle:
            return bytes(self.esapi.rsa_decrypt(handle, block, scheme))

    def ecdh(self, blob: Blob, auth: bytes, point: tuple[bytes, bytes]) -> bytes:
        with self.loaded(blob, auth) as handle:
            result = self.esapi.ecdh_zgen(handle, tss.TPM2B_ECC_POINT(tss.TPMS_ECC_POINT(x=point[0], y=point[1])))
        return bytes(result.point.x)

    def create(self, public: bytes, auth: bytes, data: bytes) -> Blob:
        from p11tpm.tpm import Blob

        sensitive = tss.TPM2B_SENSITIVE_CREATE(tss.TPMS_SENSITIVE_CREATE(userAuth=auth, data=data))
        private, made, *_ = self.esapi.create(self.srk, sensitive, public_of(public))
        return Blob(bytes(made.publicArea.marshal()), bytes(private))

    def capability(self, capability: int, first: int, count: int) -> bytes:
        more, data = self.esapi.get_capability(capability, first, count)
        return bytes([bool(more)]) + data.marshal()
