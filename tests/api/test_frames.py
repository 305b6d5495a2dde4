"""How deep the calls go that hosts make most: each Python frame on the way to the TPM costs time, and a reader."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cryptoki import USER
from keys import ec_pair

import p11tpm
from p11tpm.ck import CKA, CKM, CKO

PIN = b"123456"
PACKAGE = str(Path(p11tpm.__file__).parent)
SENDS = "connection_transact"  # what p11tpm/tpm/connection.py calls in C
MOST_OF_C_SIGN = 12


class Depths:
    """The package's Python frames, innermost first, at each command that a call sends to the TPM."""

    def __init__(self) -> None:
        self.stacks: list[list[str]] = []

    def __call__(self, frame, event, called) -> None:
        if event == "c_call" and getattr(called, "__name__", "") == SENDS:
            stack = []
            while frame and frame.f_code.co_filename.startswith(PACKAGE):
                stack.append(f"{Path(frame.f_code.co_filename).name}: {frame.f_code.co_qualname}")
                frame = frame.f_back
            self.stacks.append(stack)

    def of(self, call) -> list[list[str]]:
        self.stacks = []
        sys.setprofile(self)
        try:
            call()
        finally:
            sys.setprofile(None)
        return self.stacks


@pytest.fixture
def key(token):
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    ec_pair(token, session)
    (key,) = token.find(session, {CKA.CLASS: CKO.PRIVATE_KEY.to_bytes(8, "little")})
    return session, key


def test_a_signature_is_close_to_the_tpm(token, key):
    """The second one of a login, whose key is loaded."""
    session, private = key
    token.sign(session, private, CKM.ECDSA, bytes(32))
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), private)
    signature, length = token.ffi.new("CK_BYTE[64]"), token.ulong()
    length[0] = 64
    (stack,) = Depths().of(lambda: token.C_Sign(session, bytes(32), 32, signature, length))
    assert stack[-1] == "attach.py: _answering.<locals>.call", stack
    assert stack[0] == "connection.py: Connection.transact", stack
    assert len(stack) <= MOST_OF_C_SIGN, stack


def test_a_login_goes_down_once(token):
    """Nothing on the way to the TPM is called back from below: each file has its frames side by side."""
    session = token.open(token.slots()[0])
    for stack in Depths().of(lambda: token.login(session, USER, PIN)):
        files = [frame.partition(":")[0] for frame in stack]
        runs = [file for at, file in enumerate(files) if at == 0 or files[at - 1] != file]
        assert len(runs) == len(set(runs)), stack
