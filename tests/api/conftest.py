"""The module in this very process (a Python host of the same version), on a TPM and a store of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptoki import SO, USER, Cryptoki

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PIN = b"123456"
SO_PIN = b"so-secret"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Settings of a machine without p11tpm: an empty configuration and a store that does not exist."""
    config = tmp_path / "p11tpm.conf"
    config.write_text("log = off\n")
    config.chmod(0o600)
    monkeypatch.setenv("P11TPM_CONF", str(config))
    monkeypatch.setenv("P11TPM_STORE", str(tmp_path / "store"))
    return monkeypatch


@pytest.fixture
def bare(settings, proxy, module_path) -> Iterator[Cryptoki]:
    """A run without a token, behind a proxy that counts what the TPM is asked."""
    settings.setenv("P11TPM_TCTI", proxy.tcti)
    run = Cryptoki(module_path)
    run.initialize()
    yield run
    run.finalize()


@pytest.fixture
def token(bare) -> Cryptoki:
    """A run with an initialised token with a user's PIN, and nobody logged in."""
    slot = bare.slots()[0]
    bare.init_token(slot, SO_PIN, "test token")
    session = bare.open(slot)
    bare.login(session, SO, SO_PIN)
    bare.init_pin(session, PIN)
    bare.logout(session)
    bare.close(session)
    return bare


@pytest.fixture
def session(token) -> int:
    """A read-write session of the logged-in user."""
    handle = token.open(token.slots()[0])
    token.login(handle, USER, PIN)
    return handle
