"""The module in this process, behind a proxy that can change what the TPM answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptoki import SO, USER, Cryptoki
from keys import ec_pair, public_key, ulong

from api.conftest import PIN, SO_PIN, settings
from fuzz.tamper import Tamperer
from host.conftest import core, exported, hosts
from p11tpm.attribute import TRUE
from p11tpm.ck import CKA, CKO

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Desk", "core", "desk", "exported", "hosts", "settings"]


class Desk:
    """A token with a P-256 key, a session with it, and somebody who tampers with its TPM."""

    def __init__(self, run: Cryptoki, proxy: Tamperer) -> None:
        self.run = run
        self.proxy = proxy
        self.slot = run.slots()[0]
        run.init_token(self.slot, SO_PIN, "token")
        self.session = run.open(self.slot)
        run.login(self.session, SO, SO_PIN)
        run.init_pin(self.session, PIN)
        run.logout(self.session)
        run.login(self.session, USER, PIN)
        public, _ = ec_pair(run, self.session, private={CKA.DERIVE: TRUE})
        self.public = public_key(run, self.session, public)
        run.logout(self.session)

    @property
    def key(self) -> int:
        """The private key's handle in the login of now, 0 without one."""
        return next(iter(self.run.find(self.session, {CKA.CLASS: ulong(CKO.PRIVATE_KEY)})), 0)


@pytest.fixture
def desk(settings, swtpm, module_path) -> Iterator[Desk]:
    with Tamperer(swtpm) as proxy:
        settings.setenv("P11TPM_TCTI", proxy.tcti)
        run = Cryptoki(module_path)
        run.initialize()
        yield Desk(run, proxy)
        proxy.once(None)
        run.finalize()
