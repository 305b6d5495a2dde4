"""What p11tpm has to complain of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rig.process import write_secret

if TYPE_CHECKING:
    from rig.user import User


class Errors:
    """The log of the errors that p11tpm meets in the programs of `user`; nobody has one while all is well."""

    def __init__(self, user: User) -> None:
        self._log = user.directory / "errors"
        if settings := user.env.get("P11TPM_CONF"):  # not with another product
            write_secret(Path(settings), f"log = {self._log}\n")

    def lines(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []
