import os
from pathlib import Path

import pytest

from p11tpm.cli import prompt
from p11tpm.error import Error
from rig import write_secret


@pytest.mark.parametrize("content", ["123456", "123456\n", "123456\r\n"])
def test_a_pin_is_the_line_of_a_file(tmp_path, content):
    assert prompt.read(write_secret(tmp_path / "pin", content)) == b"123456"


@pytest.mark.parametrize("content", ["", "\n", "123456\n\n", "1\n2", "x" * 5000])
def test_a_file_with_anything_else_is_refused(tmp_path, content):
    with pytest.raises(Error, match="on one line"):
        prompt.read(write_secret(tmp_path / "pin", content))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_open_to_others_is_refused(tmp_path, mode):
    file = write_secret(tmp_path / "pin", "123456\n")
    file.chmod(mode)
    with pytest.raises(Error, match="chmod 600") as refused:
        prompt.read(file)
    assert "123456" not in refused.value.why


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
