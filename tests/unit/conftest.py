"""What the tests of the store and its files share: an unprivileged user, and a directory of theirs."""

from __future__ import annotations

import os
import pickle
import pwd  # noqa: F401 - the unprivileged user may not be able to read Python's own files
import shutil
import sqlite3  # noqa: F401 - as above
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from p11tpm.error import Error
from rig.deadline import exit_code, fork, killed_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534


def in_child(work: Callable[[], Any], uid: int | None = None) -> Any:
    """Return what `work` answers or raises in a forked child, which takes on `uid` if we are root."""
    ours, theirs = os.pipe()

    def tell() -> None:
        try:
            if uid is not None and os.geteuid() == 0:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            answer = (True, work())
        except Error as error:
            answer = (None, (error.rv, error.why))
        except BaseException as error:  # noqa: BLE001 - the parent raises it
            answer = (False, error)
        os.write(theirs, pickle.dumps(answer))

    child = fork(tell)
    os.close(theirs)
    with killed_after(child), open(ours, "rb") as pipe:  # noqa: PTH123 - a descriptor has no path
        content = pipe.read()
    exit_code(child)
    if not content:
        pytest.fail("the child ended without an answer")
    done, answer = pickle.loads(content)
    if done is None:
        raise Error(*answer)
    if not done:
        raise answer
    return answer


@pytest.fixture
def as_nobody() -> Callable[[Callable[[], Any]], Any]:
    """Run a function as a user without privileges: the one we are, or nobody if we are root."""
    return lambda work: in_child(work, NOBODY)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of that user, which others can pass: pytest's own are closed to them."""
    directory = Path(tempfile.mkdtemp(prefix="p11tpm-test-"))
    directory.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def root() -> None:
    """For tests that need files of several owners."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes files of several owners")
