"""The log of uses, read as a program of an auditor would, and what its tests share."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest
from cryptoki import Rv

from p11tpm.attribute import ulong
from p11tpm.ck import CKA, CKK, CKO

if TYPE_CHECKING:
    from pathlib import Path

PIN, SO_PIN = b"123456", b"so-secret"
DATA = b"what is signed or encrypted"
VALUE = b"the value of a secret key, 32 b."
SECRET = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.KEY_TYPE: ulong(CKK.GENERIC_SECRET)}
AES = {**SECRET, CKA.KEY_TYPE: ulong(CKK.AES)}
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
TAIL = ["program", "uid", "euid"]


class Log:
    """The log of this test: what it says since it was read last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    @property
    def text(self) -> str:
        return self.path.read_text() if self.path.exists() else ""

    def uses(self) -> list[dict[str, str]]:
        lines = self.text.splitlines()
        new, self._read = lines[self._read :], len(lines)
        return [parsed(line) for line in new]

    def said(self) -> list[str]:
        """What was done, to which key, with which answer."""
        return [" ".join((use["use"], use.get("label", ""), use["answer"])).replace("  ", " ") for use in self.uses()]


def parsed(line: str) -> dict[str, str]:
    """The fields of a line in their order, as a program would read them."""
    head = re.match(rf"{STAMP} p11tpm\[{os.getpid()}\] notice: (?=use=)", line)
    assert head, line
    fields = re.findall(r'([a-z-]+)=("[^"]*"|[^ "]*)(?: |$)', line[head.end() :])
    assert " ".join("=".join(field) for field in fields) == line[head.end() :]
    return {word: json.loads(value) if value.startswith('"') else value for word, value in fields}


def refused(rv, call, *args):
    with pytest.raises(Rv) as error:
        call(*args)
    assert error.value == rv
