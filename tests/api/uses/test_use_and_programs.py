"""What the log of uses does to programs: nothing."""

from __future__ import annotations

import os
import re

import pytest
from cryptoki import USER
from keys import ec_pair
from test_gone import Other
from use_log import DATA, PIN, refused

from p11tpm.attribute import ulong
from p11tpm.ck import CKA, CKM, CKO, CKR
from rig.deadline import exit_code, fork


def test_a_token_that_is_gone_is_said_to_be_gone(token, session, keys):
    """...as without a log of uses, which looks at the key before the function does."""
    Other().initialize_again()
    refused(CKR.DEVICE_REMOVED, token.sign, session, keys["private"], CKM.ECDSA_SHA256, DATA)


def again(token, tmp_path, settings: str) -> int:
    """Begin another run with other settings and give a session of its user."""
    token.finalize()
    (tmp_path / "p11tpm.conf").write_text(settings)
    token.initialize()
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    return session


def test_off_and_on_again(token, session, tmp_path, log):
    _, private = ec_pair(token, session)
    for words, lines in (("", 0), ("log-uses = no\n", 0), ("log-uses = yes\n", 2), ("", 0)):
        log.uses()
        session = again(token, tmp_path, f"log = {tmp_path}/log\n{words}")
        (private,) = token.find(session, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)})
        token.sign(session, private, CKM.ECDSA, bytes(32))
        assert len(log.uses()) == lines


@pytest.mark.parametrize("place", ["missing/log", "fifo", "/dev/full"])
def test_a_log_that_cannot_be_written_stops_nothing(token, session, tmp_path, place):
    ec_pair(token, session)
    os.mkfifo(tmp_path / "fifo")
    session = again(token, tmp_path, f"log = {tmp_path / place}\nlog-uses = yes\n")
    (private,) = token.find(session, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)})
    token.sign(session, private, CKM.ECDSA, bytes(32))
    refused(CKR.KEY_HANDLE_INVALID, token.sign, session, 9999, CKM.ECDSA, bytes(32))


def test_uses_without_a_log_are_refused(token, tmp_path):
    token.finalize()
    (tmp_path / "p11tpm.conf").write_text("log = off\nlog-uses = yes\n")
    refused(CKR.GENERAL_ERROR, token.initialize)
    (tmp_path / "p11tpm.conf").write_text("log = off\n")
    token.initialize()


def test_a_forked_child_logs_its_own_uses(token, session, keys, log):
    token.C_SignInit(session, token.mechanism(CKM.ECDSA), keys["private"])

    def work() -> None:
        token.initialize()
        token.login(token.open(token.slots()[0]), USER, PIN)
        token.finalize()

    child = fork(work)
    assert exit_code(child) == 0
    token.bytes_of(lambda *out: token.C_Sign(session, bytes(32), 32, *out))
    theirs, ours = (re.findall(r"p11tpm\[(\d+)\] notice: (use=\w+)", line)[0] for line in log.text.splitlines()[-2:])
    assert (theirs, ours) == ((str(child), "use=login"), (str(os.getpid()), "use=sign"))
