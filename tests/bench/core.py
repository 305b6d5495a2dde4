"""One processor core for all that is measured."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = os.sched_getaffinity(0)
ONE = {max(ALL)}


@contextmanager
def cores(which: set[int]) -> Iterator[None]:
    """Use these cores only, and so does every program that is started meanwhile.

    A program and its TPM take turns, so that one core is enough for both. With two of them a command takes as long
    again for waking up the other core, or does not, as the system likes: more than what is to be compared.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, which)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
