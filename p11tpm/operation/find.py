"""Searches (clause 5.7.8)."""

from __future__ import annotations


class Find:
    """A search: the handles that matched when it began and were not given out yet (clause 5.7.8)."""

    def __init__(self, handles: list[int]) -> None:
        self._handles = handles

    def take(self, most: int) -> list[int]:
        """Give the next handles, `most` at the most."""
        taken, self._handles = self._handles[:most], self._handles[most:]
        return taken
