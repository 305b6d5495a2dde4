"""Searches (clause 5.7.8)."""

from __future__ import annotations


class Find:
    """A search: the handles that matched when it began and were not given out yet (clause 5.7.8)."""

    def __init__(self, handles: list[int]) -> None:
        self._handles = handles

    def next(self, most: int) -> list[int]:
        """Return the next handles, `most` at the most; they are next until `skip`."""
        return self._handles[:most]

    def skip(self, count: int) -> None:
        """Skip the next handles, which the host has."""
        del self._handles[:count]
