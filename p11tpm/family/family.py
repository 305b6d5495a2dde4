"""Families of mechanisms, and which of them a mechanism or a key is of."""

from __future__ import annotations

from p11tpm.ck import CKF, CKR
from p11tpm.error import Error
from p11tpm.host.imports import Late
from p11tpm.mechanism import MECHANISMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.family.abilities import Abilities
else:
    Abilities = object


class Family(Abilities):
    """The mechanisms that do the same kind of thing with the same keys; what one cannot do is CKR_MECHANISM_INVALID.

    The rows of the mechanisms name the file of their family, whose `FAMILY` has the functions of `Abilities` that they
    need. `later` is the file with more of them, which no host needs before its first signature; empty for none.
    """

    later = ""

    def __getattr__(self, ability: str) -> Any:
        if not self.later:
            raise Error(CKR.MECHANISM_INVALID, f"{type(self).__name__} has no {ability}")
        return getattr(family(self.later), ability)


_files: dict[str, Any] = {}


def family(name: str) -> Family:
    """Return a family by the name of its file."""
    file = _files.get(name)
    if file is None:
        file = _files[name] = Late(f"p11tpm.family.{name}")
    found: Family = file.FAMILY
    return found


def of_keys(key_type: int | None) -> Family | None:
    """Return the family that generates pairs of keys of this type; None for other types."""
    for row in MECHANISMS.values():
        if row.does & CKF.GENERATE_KEY_PAIR and key_type in row.keys:
            return family(row.family)
    return None
