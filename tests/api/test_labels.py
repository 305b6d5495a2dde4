"""The label of a token: 32 bytes of any kind (clauses 3.2 and 5.5.7)."""

from __future__ import annotations

import json
import os
from urllib.parse import unquote_to_bytes

import pytest
from cryptoki import SO

from p11tpm.ck import CKF, CKR

SO_PIN = b"so-secret"

# what the host gives, padded with blanks; what it reads; what the command prints
LABELS = {
    "plain": (b"plain", b"plain", "plain"),
    "of 32 bytes": (b"x" * 32, b"x" * 32, "x" * 32),
    "padded with NUL": (b"plain".ljust(32, b"\0"), b"plain", "plain"),
    "a NUL inside": (b"in\0side", b"in\0side", "in\ufffdside"),
    "a C string and what comes after it": (b"text\0\x7f\xf0\1", b"text\0\x7f\xf0\1", "text\ufffd\ufffd\ufffd\ufffd"),
    "a C string in a field of blanks": (b"text\0", b"text\0", "text\ufffd"),
    "blanks inside and in front": (b"  a  b", b"  a  b", "  a  b"),
    "not UTF-8": (b"caf\xe9", b"caf\xe9", "caf\ufffd"),
    "not UTF-8, of 32 bytes": (b"\xe9" * 32, b"\xe9" * 32, "\ufffd" * 32),
    "UTF-8, of 32 bytes": (b"\xc3\xa9" * 16, b"\xc3\xa9" * 16, "\xe9" * 16),
    "a character cut off": (b"x" * 31 + b"\xc3", b"x" * 31 + b"\xc3", "x" * 31 + "\ufffd"),
}


def label_of(run, slot: int) -> bytes:
    return bytes(run.ffi.buffer(run.token_info(slot).label))


@pytest.mark.parametrize(("given", "kept", "shown"), LABELS.values(), ids=LABELS)
def test_a_label_is_what_the_host_gave(bare, p11tpm_cli, given, kept, shown):
    slot = bare.slots()[0]
    bare.C_InitToken(slot, SO_PIN, len(SO_PIN), given.ljust(32))
    for _ in range(2):
        assert label_of(bare, slot) == kept.ljust(32)
        info = bare.ffi.new("CK_SLOT_INFO *")
        bare.C_GetSlotInfo(slot, info)
        assert bytes(info.slotDescription) == (b"TPM 2.0: " + kept).ljust(64)
        bare.finalize()
        bare.initialize()
    listed = p11tpm_cli("token", "list", env=dict(os.environ))
    assert (listed.stderr, listed.returncode) == ("", 0)
    assert shown in listed.stdout
    (described,) = json.loads(p11tpm_cli("token", "list", "--json", env=dict(os.environ)).stdout)
    uri = dict(part.split("=") for part in described["uri"].removeprefix("pkcs11:").split(";"))
    assert unquote_to_bytes(uri["token"]) == kept
    session = bare.open(slot)
    bare.login(session, SO, SO_PIN)
    bare.close(session)
    deleted = p11tpm_cli("token", "delete", shown, "--yes", env=dict(os.environ))
    assert (deleted.stderr, deleted.returncode) == ("", 0)


def test_an_initialised_token_gets_another_label(token):
    slot = token.slots()[0]
    token.C_InitToken(slot, SO_PIN, len(SO_PIN), b"\xff\0\xfe".ljust(32))
    assert label_of(token, slot) == b"\xff\0\xfe".ljust(32)


def test_no_label_is_a_bad_argument(bare):
    """Neither a new token nor one that is there gets it."""
    slot = bare.slots()[0]
    assert bare.raw.C_InitToken(slot, SO_PIN, len(SO_PIN), bare.ffi.NULL) == CKR.ARGUMENTS_BAD
    assert not bare.token_info(slot).flags & CKF.TOKEN_INITIALIZED
    bare.init_token(slot, SO_PIN, "label")
    assert bare.raw.C_InitToken(slot, SO_PIN, len(SO_PIN), bare.ffi.NULL) == CKR.ARGUMENTS_BAD
    assert label_of(bare, slot) == b"label".ljust(32)
