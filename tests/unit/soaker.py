"""One of several processes that add, find, read, change and delete objects in one store for some seconds.

Arguments: the store's directory, the token, seconds. Prints the rounds made and the longest one in seconds.
"""

from __future__ import annotations

import os
import sys
import time

from p11tpm.store import Record, Store

ID, LABEL = 0x102, 0x003


def a_round(store: Store, token: int, name: bytes) -> None:
    """Add a pair, find it, change it, count a wrong PIN, delete it."""
    ids = store.add([Record(token, os.urandom(16), {ID: name, LABEL: b"soak"}, b"public") for _ in range(2)])
    assert store.find(token, {ID: name}, {}) == ids
    assert store.update(store.record(ids[0]), {LABEL: name}, b"mac")
    assert store.record(ids[0]).attributes == {ID: name, LABEL: name}
    store.add_failure(token, "USER", 0, os.getpid())
    assert store.delete([store.record(id_) for id_ in ids]) == 2


def main(directory: str, token: int, seconds: float) -> None:
    """Work until the time is over."""
    store = Store(directory)
    end = time.monotonic() + seconds
    rounds, longest = 0, 0.0
    while (start := time.monotonic()) < end:
        a_round(store, token, b"%d %d" % (os.getpid(), rounds))
        longest = max(longest, time.monotonic() - start)
        rounds += 1
    print(rounds, longest)  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
