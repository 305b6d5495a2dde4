"""A host that is Python: `guest.py MODULE start|fork|cold|gil|leave`, run by any Python 3; prints one JSON object.

One that hangs shows on stderr where, and ends.
"""

import ctypes
import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback

ULONG = ctypes.c_ulong
NOT_INITIALIZED = 0x190
PATIENCE, PATIENCE_OF_CHILD = 100, 20  # seconds

# The place of a function in CK_FUNCTION_LIST, counted in pointers; the first is taken by the version.
PLACES = {
    "C_Initialize": 1, "C_Finalize": 2, "C_GetInfo": 3, "C_GetSlotList": 5, "C_GetTokenInfo": 7,
    "C_OpenSession": 13, "C_CloseSession": 14, "C_Login": 19, "C_GenerateRandom": 65,
}  # fmt: skip


class Guest:
    """The module in this process; its functions are called with or without the GIL."""

    def __init__(self, path, holds_gil):
        found = ctypes.POINTER(ctypes.c_void_p)()
        (ctypes.PyDLL if holds_gil else ctypes.CDLL)(path).C_GetFunctionList(ctypes.byref(found))
        function = (ctypes.PYFUNCTYPE if holds_gil else ctypes.CFUNCTYPE)(ULONG)
        for name, place in PLACES.items():
            setattr(self, name, function(found[place]))

    def slot(self):
        """Find the token "test"; p11-kit shows others too."""
        slots, count = (ULONG * 32)(), ULONG(32)
        info = ctypes.create_string_buffer(512)  # the label comes first
        self.C_GetSlotList(ctypes.c_ubyte(1), slots, ctypes.byref(count))
        labels = {}
        for slot in slots[: count.value]:
            self.C_GetTokenInfo(ULONG(slot), info)
            labels[info.raw[:32].rstrip()] = ULONG(slot)
        return labels[b"test"]

    def random(self):
        """Ask the TPM for something, in a session of a user who is logged in."""
        session = ULONG()
        pin, out = b"123456", ctypes.create_string_buffer(16)
        steps = [
            lambda: self.C_OpenSession(self.slot(), ULONG(4), None, None, ctypes.byref(session)),
            lambda: self.C_Login(session, ULONG(1), pin, ULONG(len(pin))) % 0x100,  # already logged in: 0x100
            lambda: self.C_GenerateRandom(session, out, ULONG(16)),
            lambda: self.C_CloseSession(session),
        ]
        return [rv for rv in (step() for step in steps) if rv] or out.raw.count(b"\0") < 16


def start(guest):
    """Start, use, end, and start again."""
    path, streams = list(sys.path), (sys.stdin, sys.stdout, sys.stderr)
    told = {"initialize": guest.C_Initialize(None)}
    told["path before"], told["path after"] = path, list(sys.path)
    told["streams"] = streams == (sys.stdin, sys.stdout, sys.stderr)
    if told["initialize"] == 0:
        told["random"] = guest.random()
        told["finalize"] = guest.C_Finalize(None)
        told["again"] = [guest.C_Initialize(None), guest.random(), guest.C_Finalize(None)]
    return told


def child(guest):
    """Be a child: begin anew."""
    good = False
    signal.alarm(PATIENCE_OF_CHILD)
    try:
        good = guest.C_GetInfo(None) == NOT_INITIALIZED and guest.C_Initialize(None) == 0 and guest.random() is True
        good = good and guest.C_Finalize(None) == 0
    except BaseException:  # noqa: BLE001 - the end of Python is the parent's
        traceback.print_exc()
    os._exit(0 if good else 1)


def is_good(guest, pid):
    """Be a child, or wait for it and say whether all went well."""
    if pid == 0:
        child(guest)
    return os.waitpid(pid, 0)[1] == 0


class Workers:
    """Four threads that are in the library as long as this goes on; `failures` counts what went wrong."""

    def __init__(self, guest):
        self.failures = 0
        self._guest = guest
        self._going = True
        self._threads = [threading.Thread(target=self._work) for _ in range(4)]

    def _work(self):
        while self._going:
            if self._guest.random() is not True:
                self.failures += 1

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._going = False
        for thread in self._threads:
            thread.join()


def fork(guest):
    """Fork in every way while threads are in the library."""
    told = {"initialize": guest.C_Initialize(None), "first": guest.random()}
    with Workers(guest) as workers:
        for name, forks in [("os", os.fork), ("C", ctypes.CDLL(None).fork)]:
            told[name] = sum(is_good(guest, forks()) for _ in range(10))
    told["failures"] = workers.failures
    told["finalize"] = guest.C_Finalize(None)
    return told


def cold(guest):
    """Fork while threads do everything for the first time."""
    told = {"initialize": guest.C_Initialize(None), "good": 0}
    with Workers(guest) as workers:
        for _ in range(20):
            time.sleep(0.01)
            if not is_good(guest, os.fork()):
                break
            told["good"] += 1
    told["failures"] = workers.failures
    told["finalize"] = guest.C_Finalize(None)
    return told


def gil(guest):
    """Call with the GIL held (as SWIG's and Cython's wrappers do) in several threads at once."""
    told = []

    def begin():
        told.append(guest.C_Initialize(None))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"initialize": sorted(told), "random": guest.random(), "finalize": guest.C_Finalize(None)}


def leave(guest):
    """End without C_Finalize, while a thread is in the library."""
    told = {"initialize": guest.C_Initialize(None), "random": guest.random()}
    threading.Thread(target=lambda: [guest.random() for _ in range(100000)], daemon=True).start()
    return told


if __name__ == "__main__":
    what = sys.argv[2]
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(PATIENCE)
    one = Guest(sys.argv[1], what == "gil")
    print(json.dumps({"start": start, "fork": fork, "cold": cold, "gil": gil, "leave": leave}[what](one)))  # noqa: T201
