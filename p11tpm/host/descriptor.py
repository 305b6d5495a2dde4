"""Descriptors of ours in a process of the host's: numbers that stand for another file once the host has closed them.

Hosts that close all that they do not know (close_range(2)) close ours, too, and what they open next gets the numbers.
So before each use it is looked whether a number still stands for the file that we opened: one that does not is
forgotten, and never closed.
"""

from __future__ import annotations

import posix

_NEAR = 64  # numbers that other threads may take between two steps
_STREAMS = 3  # SQLite takes no number below it: robust_open() in its os_unix.c


class Descriptor:
    """A number, and the file that it stands for while it is ours."""

    __slots__ = ("_file", "number")

    def __init__(self, number: int) -> None:
        """Keep a number that was just opened; OSError if it is not open."""
        self.number = number
        self._file = _file(number)

    def is_ours(self) -> bool:
        """Return whether the number still stands for the file."""
        try:
            status = posix.fstat(self.number)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._file

    def close(self) -> None:
        """Close the file, unless the host has done that."""
        if self.is_ours():
            posix.close(self.number)


def next_number(directory: str) -> int:
    """Return the number that the next file gets that is opened, unless other threads open or close something.

    OSError if there is no directory of this name, or if there may be no more descriptors.
    """
    number = posix.open(directory, posix.O_PATH | posix.O_CLOEXEC)
    posix.close(number)
    return number


def find(file: tuple[int, int], expected: int) -> Descriptor | None:
    """Find the number with which a library has just opened a file, of which device and inode are known.

    It is the next one from `expected` on, as open(2) gives it, or one below that a thread has closed meanwhile.
    """
    for number in (*range(expected, expected + _NEAR), *range(expected - 1, _STREAMS - 1, -1)):
        try:
            if _file(number) == file:
                return Descriptor(number)
        except OSError:
            continue
    return None


def _file(number: int) -> tuple[int, int]:
    status = posix.fstat(number)
    return status.st_dev, status.st_ino
