"""A host in C that calls every function with sense and nonsense, in threads and children: nothing breaks.

It checks for each call that no byte is written that is not the call's to write, that the answer is one that the
standard has for the function, and that an error is no success; make fuzz makes many more calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fuzz.effort import rounds
from fuzz.storm import CALLS, Storm, never_good

if TYPE_CHECKING:
    from collections.abc import Iterator

MADE = rounds(50_000, 1_000_000)


@pytest.fixture
def storm(tmp_path, module_path) -> Iterator[Storm]:
    host = Storm(module_path, tmp_path, 1)
    yield host
    host.stop()


@pytest.mark.timeout(600)
def test_every_function_is_called_and_none_breaks(storm, exported):
    for number in range(MADE // CALLS):
        storm.play(number)
    answers = storm.answers()
    assert set(exported) <= answers.keys(), "functions that are never called"
    assert never_good(answers) == set()
    assert storm.made() > MADE
    assert answers["fork"].number > MADE / 1000
