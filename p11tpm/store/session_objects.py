"""Session objects: the same shelf as the store's, in memory, gone with the session that put them there.

PKCS#11 Base Specification 3.0, clause 4.4: CKA_TOKEN false. Identifiers are negative, so that an identifier alone says
whether an object is in the store or here.
"""

from __future__ import annotations

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.attribute import Template
    from p11tpm.store import Record


LAST = -1 << 40  # the identifiers below it are those of profile objects


class SessionObjects:
    """The session objects of one token in this process."""

    def __init__(self) -> None:
        self._lock = _thread.RLock()
        self._last = 0
        self._records: dict[int, tuple[int, Record]] = {}

    def add(self, records: list[Record], session: int) -> None:
        """Keep objects for as long as `session` lasts, and give them identifiers."""
        with self._lock:
            for record in records:
                self._last -= 1
                record.id = self._last
                self._records[record.id] = (session, record)

    def find(self, attributes: Template, exclude: Template) -> list[int]:
        """Find the objects that have all of `attributes` and none of `exclude`."""
        with self._lock:
            return [
                record.id
                for _, record in self._records.values()
                if attributes.items() <= record.attributes.items()
                and not any(record.attributes.get(type_) == value for type_, value in exclude.items())
            ]

    def record(self, id_: int) -> Record | None:
        """Return one object; None if it is gone."""
        entry = self._records.get(id_)
        return entry[1] if entry else None

    def update(self, record: Record, attributes: Template, mac: bytes | None) -> bool:
        """Set attributes and authentication code of one object; False if it is gone."""
        with self._lock:
            if self.record(record.id) is not record:
                return False
            record.attributes = {**record.attributes, **attributes}
            record.mac = mac
            return True

    def delete(self, records: list[Record]) -> int:
        """Forget objects and give how many there were."""
        with self._lock:
            return sum(self._records.pop(record.id, None) is not None for record in records)

    def forget(self, sessions: set[int] | None = None) -> None:
        """Forget what `sessions` made, or everything."""
        with self._lock:
            gone = [id_ for id_, (owner, _) in self._records.items() if sessions is None or owner in sessions]
            for id_ in gone:
                del self._records[id_]

    def forget_private(self, private: Template) -> None:
        """Forget the objects that have all of these attributes (logout, clause 5.6.9)."""
        with self._lock:
            for id_ in self.find(private, {}):
                del self._records[id_]
