"""A label from anyone as it is in the log of uses: on one line, readable for people, and to be read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p11tpm.core.uses import quoted, this_program


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (b"", '""'),
        (b"web key 1", '"web key 1"'),
        ("Schlüssel 鍵".encode(), '"Schlüssel 鍵"'),
        (b'" answer=CKR_OK', r'"\u0022 answer=CKR_OK"'),
        (rb"\u0041", r'"\u005cu0041"'),
        (b"a\r\nuse=sign\0\x1b[2J\x7f", r'"a\u000d\u000ause=sign\u0000\u001b[2J\u007f"'),
        ("\u2028\u202e\ufeff\x85".encode(), r'"\u2028\u202e\ufeff\u0085"'),
        ("\U000e0041".encode(), r'"\udb40\udc41"'),
        (b"caf\xe9 \xff", r'"caf\udce9 \udcff"'),
        (b"x" * 120, f'"{"x" * 120}"'),
        (b"x" * 121, f'"{"x" * 120}…"'),
        (b"\n" * 5000, '"' + r"\u000a" * 20 + '…"'),
        (("😀" * 121).encode(), f'"{"😀" * 120}…"'),
    ],
)
def test_labels(label, shown):
    assert quoted(label) == shown


@settings(max_examples=50)
@given(st.binary(max_size=20) | st.text(max_size=20).map(str.encode))
def test_what_is_quoted_can_be_read_back(label):
    shown = quoted(label)
    assert json.loads(shown).encode(errors="surrogateescape") == label
    assert shown.isprintable()
    assert len(shown.splitlines()) == 1


def test_the_name_of_this_program():
    assert this_program() == Path("/proc/self/comm").read_text().rstrip("\n")
