"""How much is tried: enough for every run of the suite, or what P11TPM_FUZZ_ROUNDS says (a number, or ``all``)."""

from __future__ import annotations

import os

ALL = 1 << 30


def rounds(usual: int, complete: int) -> int:
    """Return the number of tries: `usual` by default, `complete` for ``all``."""
    wanted = os.environ.get("P11TPM_FUZZ_ROUNDS", "")
    if wanted == "all":
        return complete
    return int(wanted) if wanted else usual
