"""A host in C that calls every function with sense and nonsense, in threads and children: nothing breaks.

It checks for each call that no byte is written that is not the call's to write, that the answer is one that the
standard has for the function, and that an error is not a success; make fuzz makes many more calls.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

import rig
from fuzz.effort import rounds
from fuzz.storm import CALLS, SOURCE, Storm, never_good
from host.core import WHOLE
from host.sanitized import Sanitized

if TYPE_CHECKING:
    from collections.abc import Iterator

MADE = rounds(50_000, 1_000_000)
SEEDS = {"as it is": 1, "sanitized": 2}


@pytest.fixture(params=SEEDS)
def storm(request, tmp_path, module_path) -> Iterator[Storm]:
    """The module as it is, or with the sanitizers, which end the host when they find something."""
    module, env = module_path, None
    if request.param == "sanitized":
        watched = Sanitized(tmp_path / "sanitized")
        module, env = watched.module, watched.env
    host = Storm(module, tmp_path, SEEDS[request.param], env)
    yield host
    host.stop()


@pytest.mark.timeout(900)
def test_every_function_is_called_and_none_breaks(storm, exported):
    for number in range(MADE // CALLS):
        storm.play(number)
    answers = storm.answers()
    assert set(exported) <= answers.keys(), "functions that are never called"
    assert never_good(answers) == set()
    assert storm.made() > MADE
    assert answers["fork"].number > MADE / 1000


# A core without a run, whatever is called, but for C_GetInfo.
BROKEN_CORE = """
attach([name for name in STUBS if name != "py_C_Initialize"], lambda *_: lib.FINISHED | 0x190)
def get_info(info):
    {}
attach(["py_C_GetInfo"], get_info)
"""
BROKEN = {  # what C_GetInfo does that it must not: what is told of it
    "a code that the standard does not have": ("return lib.FINISHED | 0x999", "must not answer 0x999 (?)"),
    "a code of other functions": ("return lib.FINISHED | 0xA0", "must not answer 0xa0 (PIN_INCORRECT)"),
    "a success without a result": ("return lib.FINISHED", "CKR_OK, but there is nowhere to put it"),
    "a write before the structure": (
        "ffi.cast('char *', info)[-8] = b'x'; return lib.FINISHED | 7",
        "is written outside",
    ),
    "a write behind its page": ("ffi.cast('char *', info)[4096] = b'x'; return lib.FINISHED | 7", "signal 11"),
}


@pytest.mark.parametrize(("code", "told"), BROKEN.values(), ids=BROKEN)
def test_a_fault_of_the_module_is_told(core, hosts, tmp_path, code, told):
    module = core.write(WHOLE + BROKEN_CORE.format(code))
    said = [
        subprocess.run(
            [hosts.program(SOURCE), module, "round", str(seed), "0", "2000", tmp_path / "state"],
            env=rig.clean_env(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stderr
        for seed in range(4)
    ]
    assert any(told in one for one in said), said
    assert all("FAULT in round 0" in one and "C_GetInfo(" in one for one in said), said
