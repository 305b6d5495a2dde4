"""Eight processes that make, use and delete keys of one token behind tpm2-abrmd; each second one of them is killed.

P11TPM_SOAK is for how many seconds (20).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from clients.keymaker import LABEL
from rig.errors import Errors
from rig.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = float(os.environ.get("P11TPM_SOAK", "20"))
PROCESSES = 8
PROGRAM = Path(__file__).with_name("keymaker.py")
TOKEN = "p11tpm"


class Keymaker:
    """A process of keymaker.py; `said` is the last word about each key."""

    def __init__(self, user: rig.User, module: str, seconds: float) -> None:
        command = [sys.executable, PROGRAM, module, TOKEN, user.pin_file, str(max(seconds, 0))]
        self._output = user.directory / f"keymaker-{os.urandom(4).hex()}"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(command, env=user.env, stdout=output, stderr=output)
        self.killed = False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self.killed = True

    def end(self) -> None:
        self._process.wait(60)

    @property
    def said(self) -> dict[str, str]:
        lines = (line.split() for line in self._output.read_text().splitlines())
        return {words[1]: words[0] for words in lines if len(words) == 2}

    @property
    def complaint(self) -> str:
        """Nothing, or with what it ended."""
        good = self.killed or self._process.poll() in {None, 0}
        return "" if good else self._output.read_text()[-2000:]


class Crew:
    """All of them, and who took their places: `done` when the time is over."""

    def __init__(self, user: rig.User, tpm: rig.Tabrmd, seconds: float) -> None:
        self.user = user
        self.tpm = tpm
        self.errors = Errors(user)
        self._module = user.module
        start = time.monotonic()
        self._end = start + seconds
        self._at_work = [self._another() for _ in range(PROCESSES)]
        self.done: list[Keymaker] = []
        for second, place in zip(range(1, int(seconds)), cycle(range(PROCESSES)), strict=False):
            time.sleep(max(0, start + second - time.monotonic()))
            self._replace(place)
        for one in self._at_work:
            one.end()
        self.done += self._at_work

    def _another(self) -> Keymaker:
        return Keymaker(self.user, self._module, self._end - time.monotonic())

    def _replace(self, place: int) -> None:
        if not self._at_work[place].complaint:
            self._at_work[place].kill()
        self.done.append(self._at_work[place])
        self._at_work[place] = self._another()

    def fates(self, *, killed: bool) -> dict[str, str]:
        """The last word about each key of those who were killed, or of the others."""
        return {key: word for one in self.done if one.killed == killed for key, word in one.said.items()}

    def keys(self) -> dict[str, str]:
        """What the C interface says of each key that is left."""
        surveyor = Keymaker(self.user, self._module, 0)
        surveyor.end()
        assert surveyor.complaint == ""
        return surveyor.said


@pytest.fixture(scope="module")
def crew(new_user: type[rig.User], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    with rig.Tabrmd(max_tries=32) as tpm:
        user = new_user(tpm, tmp_path_factory.mktemp("user"))
        user.create_token(TOKEN)
        yield Crew(user, tpm, SECONDS)


def test_no_errors_in_the_others(crew: Crew) -> None:
    assert [one.complaint for one in crew.done if one.complaint] == []
    assert crew.errors.lines() == []
    fates = [*crew.fates(killed=True).values(), *crew.fates(killed=False).values()]
    killed = sum(one.killed for one in crew.done)
    print(f"{len(fates)} keys made, {fates.count('deleted')} used and deleted, {killed} processes killed")  # noqa: T201
    assert killed == int(SECONDS) - 1
    assert set(crew.fates(killed=False).values()) == {"deleted"}


def test_no_half_key_pairs(crew: Crew) -> None:
    """Whatever a killed process was doing: who deletes a pair by the C interface does it half by half."""
    keys, fates = crew.keys(), crew.fates(killed=True)
    expected = {
        "making": {None, "pair"},
        "made": {"pair"},
        "deleting": {None, "public", "pair"},
        "deleted": {None},
    }
    print(f"left: {dict(Counter(keys.values()))}")  # noqa: T201
    assert "made" in fates.values()
    assert keys.keys() <= fates.keys()
    assert [(word, keys.get(key)) for key, word in fates.items() if keys.get(key) not in expected[word]] == []


def test_nothing_left_behind(crew: Crew) -> None:
    """Nothing is in the TPM, which counts no wrong PIN, and the next one may use the store as it is."""
    wait_until(lambda: crew.tpm.swtpm.loaded() == [], "tpm2-abrmd flushing what was left", 5)
    assert crew.tpm.swtpm.lockout_counter() == 0
    crew.user.generate("p256", "afterwards")
    assert list(crew.user.store.glob("*-journal")) == []


def test_the_command_agrees(crew: Crew) -> None:
    if isinstance(crew.user, rig.PeerUser):
        pytest.skip("only p11tpm has these commands")
    listed = json.loads(crew.user.p11tpm("key", "list", "--json"))
    assert {key["id"] for key in listed if key["label"] == LABEL} == crew.keys().keys()
    assert "wrong" not in {one["state"] for one in json.loads(crew.user.p11tpm("doctor", "--json"))}
