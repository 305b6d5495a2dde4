"""What encrypts or decrypts: one key, one mechanism, one direction."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Cipher(ABC):
    """A cipher at work: it takes data in parts or as a whole, and gives what becomes of them.

    `taken` is the number of bytes that it took so far.
    """

    def __init__(self) -> None:
        self.taken = 0

    @abstractmethod
    def _given(self, taken: int) -> int:
        """Return how many bytes `update` has given when it has taken so many."""

    @abstractmethod
    def _most(self, taken: int) -> int:
        """Return how many bytes at most become of so many."""

    @abstractmethod
    def _update(self, part: bytes) -> bytes:
        """Process a part; the result is as long as `_given` says."""

    @abstractmethod
    def finish(self) -> bytes:
        """Return the rest when all data were processed."""

    def step(self, length: int) -> int:
        """Return how many bytes `update` gives for a part of this length: exactly so many."""
        return self._given(self.taken + length) - self._given(self.taken)

    @property
    def rest(self) -> int:
        """How many bytes `finish` gives at most."""
        return max(0, self._most(self.taken) - self._given(self.taken))

    def bound(self, length: int) -> int:
        """Return how many bytes `whole` gives at most for data of this length."""
        return max(0, self._most(length))

    def update(self, part: bytes) -> bytes:
        """Process the next part of the data."""
        given = self._update(part)
        self.taken += len(part)
        return given

    def whole(self, data: bytes) -> bytes:
        """Process all of the data in one part."""
        return self.update(data) + self.finish()
