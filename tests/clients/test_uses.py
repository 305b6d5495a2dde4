"""The log of uses, with the programs that an authority's operator runs: it tells which of the keys they used."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rig
from clients.test_openssh import add, by_agent, check_welcome, public_file, start_agent
from rig.sshd import make_key

if TYPE_CHECKING:
    from collections.abc import Iterator


README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def operator(tabrmd: rig.Tabrmd, tmp_path: Path) -> Iterator[rig.User]:
    """Somebody with two keys, whose uses are logged from then on."""
    user = rig.User(tabrmd, tmp_path)
    user.init_keys({"ssh": "p256", "ca": "p384"})
    (tmp_path / "p11tpm.conf").write_text(f"log = {tmp_path}/log\nlog-uses = yes\n")
    return user


def who_signed(log: Path) -> str:
    """Ask as README.md says, of this log."""
    (command,) = re.findall(r"^grep .*? /var/log/p11tpm.log", README.read_text(), re.MULTILINE)
    command = command.replace("/var/log/p11tpm.log", f"'{log}'")
    return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False).stdout


def test_which_key_signed(operator: rig.User, sshd: rig.Sshd, tmp_path: Path) -> None:
    """A login by ssh-agent with one key, then a certificate by the other."""
    log = tmp_path / "log"
    sshd.authorize(operator.public_key("ssh"))
    with start_agent(operator) as agent:
        add(agent, operator)
        check_welcome(sshd.login(*by_agent(agent), env=operator.env))
    assert who_signed(log) == ""
    (line,) = [line for line in log.read_text().splitlines() if "use=sign" in line]
    assert re.search(r' label="ssh" id=\w+ mechanism=CKM_ECDSA\w* answer=CKR_OK program="ssh-pkcs11-help" ', line)
    authority, subject = public_file(operator, "ca", tmp_path), make_key(tmp_path / "subject")
    command = ("/usr/bin/ssh-keygen", "-q", "-s", authority, "-D", operator.module, "-I", "id")
    assert operator.run(*command, subject.with_suffix(".pub")).returncode == 0
    (line,) = who_signed(log).splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ p11tpm\[\d+\] notice: "
    key = r'class=CKO_PRIVATE_KEY label="ca" id=\w+ mechanism=CKM_ECDSA\w*'
    assert re.fullmatch(
        rf'{stamp}use=sign token="test" {key} answer=CKR_OK program="ssh-keygen" uid=\d+ euid=\d+', line
    )
    assert "use=login" in log.read_text()
    assert operator.pin not in log.read_text()
