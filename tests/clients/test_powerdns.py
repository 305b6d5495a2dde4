"""PowerDNS by its recipe: a server that signs its answers as they are asked for, before a real validator.

It leaves the parameters of mechanisms that take none unset.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from rig.powerdns import ALGORITHMS, PowerDns
from rig.program import said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("p11_kit_settings")


@pytest.fixture(scope="module")
def broker() -> Iterator[rig.Tabrmd]:
    with rig.Tabrmd(max_tries=32) as tpm:
        tpm.swtpm.directory.chmod(0o711)  # the bus is for other users, too
        yield tpm


@pytest.fixture(params=ALGORITHMS)
def server(request: pytest.FixtureRequest, broker: rig.Tabrmd, new_user: Callable[..., rig.User]) -> Iterator[PowerDns]:
    with tempfile.TemporaryDirectory(prefix="p11tpm-powerdns-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        user = new_user(broker, directory)
        user.create_token()
        for settings in directory.glob("*.conf"):
            settings.chmod(0o644)
        (directory / "powerdns").mkdir()
        with PowerDns(user, directory / "powerdns", request.param) as running:
            yield running


def check_signed(server: PowerDns) -> None:
    told = server.validated("www.example.org", server.anchor())
    assert "; fully validated" in told, told + server.log
    assert "192.0.2.1" in told


def test_answers(server: PowerDns) -> None:
    check_signed(server)
    missing = server.validated("nothing.example.org", server.anchor())
    assert "; negative response, fully validated" in missing, missing + server.log
    server.restart()
    check_signed(server)
    assert "PKCS#11" not in server.log
    assert "p11tpm:" not in server.log


def test_a_wrong_pin(server: PowerDns, broker: rig.Tabrmd) -> None:
    """PowerDNS tries it for each question; the TPM sees one of them, as README promises."""
    user = server.user
    change = ("--login", "--pin", "env:OLD", "--change-pin", "--new-pin", "env:NEW")
    env = {**user.env, "OLD": user.pin, "NEW": "654321"}
    said(["/usr/bin/pkcs11-tool", "--module", user.module, *change], env, user.directory)
    before = broker.swtpm.lockout_counter()
    server.restart()
    for _ in range(8):
        assert "fully validated" not in server.validated("www.example.org", server.anchor())
    assert "C_Login failed" in server.log
    if not isinstance(user, rig.PeerUser):
        assert broker.swtpm.lockout_counter() == before + 1
