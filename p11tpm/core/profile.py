"""Profile objects: they say which parts of the standard the token keeps to, and are in no store.

PKCS#11 Base Specification 3.0, clause 4.13; Profiles 3.0, clauses 3.1 (Baseline Provider), 3.2 (Extended Provider) and
3.3 (Authentication Token), whose functions, attributes and object classes are all there.
"""

from __future__ import annotations

from p11tpm.attribute import FALSE, TRUE, Template, ulong
from p11tpm.ck import CKA, CKO, CKP
from p11tpm.store.rows import Record
from p11tpm.store.session_objects import LAST

_NAMES = {
    CKP.BASELINE_PROVIDER: b"Baseline Provider",
    CKP.EXTENDED_PROVIDER: b"Extended Provider",
    CKP.AUTHENTICATION_TOKEN: b"Authentication Token",
}


class Profiles:
    """The shelf of the profile objects: they are there without a login, and nothing can be done to them.

    A search finds them only if it asks for their class: programs that list what a user has put into the token, or
    delete it, mean no such thing.
    """

    def __init__(self, token: int) -> None:
        fixed = dict.fromkeys((CKA.PRIVATE, CKA.MODIFIABLE, CKA.COPYABLE, CKA.DESTROYABLE), FALSE)
        common = {CKA.CLASS: ulong(CKO.PROFILE), CKA.TOKEN: TRUE, **fixed}
        self._records = {}
        for profile, label in _NAMES.items():
            uuid = b"p11tpm profile %d" % profile
            own = {CKA.PROFILE_ID: ulong(profile), CKA.LABEL: label, CKA.UNIQUE_ID: uuid.replace(b" ", b"-")}
            self._records[LAST - profile] = Record(token, uuid, {**common, **own}, id=LAST - profile)

    def find(self, template: Template) -> list[int]:
        """Find the profile objects that have all of these attributes."""
        return [id_ for id_, record in self._records.items() if template.items() <= record.attributes.items()]

    def record(self, id_: int) -> Record | None:
        """Return one object; None if there is no such one."""
        return self._records.get(id_)
