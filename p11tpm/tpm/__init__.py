"""The TPM: what the layers above see of it. It knows no PKCS#11 beyond the errors.

Commands are put together here and sent as they are. ESYS needs ten times as long for the same HMAC, asks the host's
OpenSSL for what its configuration may have replaced, and writes to the host's stderr; it is the referee of the tests.
"""

from __future__ import annotations

from p11tpm.tpm.codec import Blob, Key, Srk
from p11tpm.tpm.connection import AbsentError, SilentError
from p11tpm.tpm.tpm import DisplacedError, Lockout, NotResidentError, Tpm

__all__ = ["AbsentError", "Blob", "DisplacedError", "Key", "Lockout", "NotResidentError", "SilentError", "Srk", "Tpm"]
