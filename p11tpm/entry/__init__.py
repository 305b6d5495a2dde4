"""The functions of PKCS#11, one for each C_...: read pointers, call the core, write results.

A function here takes what its C namesake takes and gives nothing back: it returns for CKR_OK and raises for anything
else. `attach.entry` connects it to its C stub. Clauses are those of the PKCS#11 Base Specification 3.0.
"""

from __future__ import annotations

from p11tpm.entry import (
    decrypt,
    digest,
    dual,
    encrypt,
    general,
    key,
    object,  # noqa: A004 - the standard's noun
    session,
    sign,
    slot,
    verify,
)
from p11tpm.entry.attach import attach_the_rest

__all__ = ["decrypt", "digest", "dual", "encrypt", "general", "key", "object", "session", "sign", "slot", "verify"]

attach_the_rest()
