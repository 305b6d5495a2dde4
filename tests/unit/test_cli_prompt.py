import os
from pathlib import Path

import pytest

from p11tpm.cli import prompt
from p11tpm.error import Error
from rig import write_secret


def test_a_pin_comes_from_a_file(tmp_path):
    assert prompt.read(write_secret(tmp_path / "pin", "123456\n")) == b"123456"


def test_a_file_open_to_others_is_refused(tmp_path):
    file = write_secret(tmp_path / "pin", "123456\n")
    file.chmod(0o640)
    with pytest.raises(Error, match="the owner's secret in it: chmod 600"):
        prompt.read(file, "owner's secret")


def test_a_pipe_is_nobody_elses():
    reader, writer = os.pipe()
    os.write(writer, b"123456\n")
    os.close(writer)
    assert prompt.read(Path(f"/dev/fd/{reader}")) == b"123456"
    os.close(reader)


def test_a_new_pin_must_be_long_enough(tmp_path):
    with pytest.raises(Error, match="6 to 128"):
        prompt.new("PIN", write_secret(tmp_path / "pin", "12345"), 6)


def test_a_pin_file_alone_means_no_so_pin(tmp_path):
    assert prompt.new_pair(write_secret(tmp_path / "pin", "123456"), None, 4) == (None, b"123456")


def test_a_known_pin_is_not_asked_for(tmp_path):
    so_pin_file = write_secret(tmp_path / "so-pin", "so-secret")
    assert prompt.new_pair(None, None, 4, b"123456") == (None, b"123456")
    assert prompt.new_pair(None, so_pin_file, 4, b"123456") == (b"so-secret", b"123456")
