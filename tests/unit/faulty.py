"""One process of the fault tests: changes a store while the preloaded fault.c makes its system calls fail.

Arguments: the store's directory, then a kind of fault.c. Prints one line for each system call that was made to
fail: its number, how the change ended (``done``, ``killed`` or the return value), and what the store holds afterwards.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from p11tpm.error import Error
from p11tpm.store import Record, Store, TokenRow

native = ctypes.CDLL(None)
DONE, UNEXPECTED, UNNOTICED = 255, 254, 253


def records(token: int) -> list[Record]:
    """Make a pair of objects that needs several pages."""
    return [Record(token, os.urandom(16), {0: bytes(8), 3: b"x" * 3000}) for _ in range(2)]


def change(directory: str, token: int) -> int:
    """Add a pair of objects and give what became of it; the process must be able to go on."""
    store = Store(directory)
    try:
        store.add(records(token))
    except Error as error:
        native.fault_arm(-1, 0)
        store.delete([store.record(id_) for id_ in store.add(records(token))])
        return error.rv
    except Exception as error:  # noqa: BLE001 - the parent reports it
        sys.stderr.write(f"{error!r}\n")
        return UNEXPECTED
    return DONE


def end_of(child: int) -> str:
    """Return what became of a child's change."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])  # whoever runs this program gives it a deadline
    if code < 0:
        return "killed" if code == -signal.SIGKILL else f"signal {-code}"
    return {DONE: "done", UNEXPECTED: "unexpected", UNNOTICED: "unnoticed"}.get(code, f"{code:#x}")


def state(directory: str) -> str:
    """Return the number of tokens and of objects, by a fresh connection, and SQLite's own opinion."""
    store = Store(directory)
    tokens = store.tokens()
    objects = [len(store.find(token.id, {3: b"x" * 3000}, {0: b""})) for token in tokens]
    opinion = store.database.read(lambda db: db.execute("PRAGMA integrity_check").fetchone()[0], "ok")
    keys = store.database.read(lambda db: db.execute("PRAGMA foreign_key_check").fetchall(), [])
    store.close()
    return f"{len(tokens)} {sum(objects)} {keys or opinion}"


def main(directory: str, kind: int) -> None:
    """Fail the first system call, then the second one, and so on, until the change does not notice any more."""
    token = Store(directory).add_token(TokenRow(uuid=os.urandom(16)))
    Store(directory).add(records(token))
    for number in range(1000):
        child = os.fork()
        if child == 0:
            native.fault_arm(number, kind)
            code = change(directory, token)
            os._exit(code if code != DONE or native.fault_seen() > number else UNNOTICED)
        end = end_of(child)
        if end == "unnoticed":
            return
        hot = (Path(directory) / "p11tpm.db-journal").exists()
        print(number, end, state(directory), "hot" if hot else "cold")  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
