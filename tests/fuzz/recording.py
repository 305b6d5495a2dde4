"""A conversation with a TPM, recorded once and played again without one.

All random numbers of our side come from a seed, so that each command is the same in each play, and each response, whose
HMAC covers our nonces, is right again. Who says something else than was said in the recording hears FAILURE, as a TPM
in trouble would answer.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

from fuzz.tamper import error
from p11tpm.error import TPM
from p11tpm.tpm import Tpm, hmac_session, retry, salt, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from p11tpm.tpm import Srk

MOST_COMMANDS = 200  # of one call, whatever is answered: more is a loop


@contextmanager
def seeded() -> Iterator[None]:
    """Use random numbers from a seed, and do not sleep."""
    dice = random.Random("recording")
    with (
        mock.patch.object(hmac_session, "urandom", dice.randbytes),
        mock.patch.object(salt, "urandom", dice.randbytes),
        mock.patch.object(wire, "sleep", return_value=None),
        mock.patch.object(retry, "sleep", return_value=None),
    ):
        yield


class Tape:
    """What a `Tpm` connects to instead of a TPM; each play begins at the beginning.

    `change` gets the number of a command and its response, and gives what is heard instead.
    """

    def __init__(self, record: list[tuple[bytes, bytes]]) -> None:
        self.record = record
        self.change: Callable[[int, bytes], bytes] = lambda _number, response: response
        self.commands = 0
        self.epoch = 0
        self._is_open = False

    def open(self) -> bool:
        same, self._is_open = self._is_open, True
        self.epoch += not same
        return same

    def rest(self) -> None:
        """End an action, as a connection does; nobody else has the tape."""

    def close(self) -> None:
        self._is_open = False

    def ended(self, handle: int) -> None:
        """Record, as a connection does; there is nothing to flush."""

    def transact(self, command: bytes, _seconds: float) -> bytes:
        number, self.commands = self.commands, self.commands + 1
        if number >= MOST_COMMANDS:
            raise RecursionError("a call that does not end")
        if number >= len(self.record) or command != self.record[number][0]:
            return error(TPM.FAILURE)
        return self.change(number, self.record[number][1])


class Recorder:
    """A connection that writes down what is said."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.record: list[tuple[bytes, bytes]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def transact(self, command: bytes, seconds: float) -> bytes:
        response = self._connection.transact(command, seconds)
        self.record.append((command, response))
        return response


def on(connection: Any, srk: Srk) -> Tpm:
    """Return a Tpm that speaks over another connection."""
    tpm = Tpm("swtpm:")
    tpm.bind(srk)
    tpm.connection = tpm.wire.connection = connection
    return tpm


class Conversation:
    """One operation of `Tpm`: recorded on a TPM, then played with changed responses."""

    def __init__(self, name: str, tpm: Tpm, call: Callable[[Tpm], Any]) -> None:
        self.name = name
        self._call = call
        self._srk = tpm.srk
        recorder = Recorder(tpm.connection)
        with seeded():
            self.result = call(on(recorder, self._srk))
        tpm.connection.close()
        self.record = recorder.record

    def play(self, change: Callable[[int, bytes], bytes] | None = None) -> Any:
        """Play the operation and give its result, or raise what it raises."""
        tape = Tape(self.record)
        if change:
            tape.change = change
        with seeded():
            return self._call(on(tape, self._srk))
