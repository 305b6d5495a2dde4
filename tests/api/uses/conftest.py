"""Keys of a token whose uses are logged: a line in the log for each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from keys import ec_pair, rsa_pair
from use_log import AES, DATA, PIN, SECRET, SO_PIN, VALUE, Log

from p11tpm.attribute import FALSE, TRUE
from p11tpm.ck import CKA

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def settings(settings, tmp_path):
    (tmp_path / "p11tpm.conf").write_text(f"log = {tmp_path}/log\nlog-uses = yes\n")
    return settings


@pytest.fixture
def log(tmp_path, session) -> Iterator[Log]:  # noqa: ARG001 - whose login comes first
    """What is logged after the login; no secret is, neither in the clear nor in hexadecimal."""
    log = Log(tmp_path / "log")
    log.uses()
    yield log
    text = log.text.replace(f"p11tpm[{os.getpid()}]", "")
    for secret in (PIN, SO_PIN, DATA[:16], VALUE):
        assert secret.decode() not in text
        assert secret.hex() not in text


@pytest.fixture
def keys(token, session, log) -> dict[str, int]:
    made = {}
    more = {"private": {CKA.DERIVE: TRUE}}
    made["public"], made["private"] = ec_pair(token, session, label=b"pair", id_=b"\x0a\xff", **more)
    usable = {CKA.SENSITIVE: FALSE, CKA.EXTRACTABLE: TRUE}
    made["hmac"] = token.create(session, {**SECRET, **usable, CKA.VALUE: VALUE, CKA.LABEL: b"hmac", CKA.SIGN: TRUE})
    made["aes"] = token.create(session, {**AES, CKA.VALUE: VALUE, CKA.LABEL: b"aes", CKA.WRAP: TRUE, CKA.UNWRAP: TRUE})
    log.uses()
    return made


@pytest.fixture
def rsa(token, session, log) -> tuple[int, int]:
    pair = rsa_pair(token, session)
    log.uses()
    return pair
